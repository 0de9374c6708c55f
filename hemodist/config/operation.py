"""How a run is operated: where it runs, when it is saved, and what is logged. None of it decides a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from hemodist.config.fields import MANY, Often, Range


@dataclass(frozen=True)
class ScalingConfig:
    """Where it runs."""

    workers: Annotated[int, Range(0, 65_536), Often()] = 2
    """Ranks, one GPU or `cpus_per_worker` CPUs each; 0 runs the loop in the calling process, without Ray.
    The gradient is that of the global batch whatever their number is.
    With batch norm another number is another training, since batch statistics see a rank's own micro-batch."""

    min_workers: Annotated[int | None, Range(1, 65_536, checked_by="config.run.check")] = None
    """Fewest ranks that the run starts and goes on with while there are no free slots for `workers`.
    None is `workers`, so that the run waits for slots for all.
    A smaller number lets batch norm see larger micro-batches for a while."""

    wait_seconds: Annotated[float, Range(1, 86_400)] = 15.0
    """Seconds that slots for lost workers are waited for before the run goes on with fewer."""

    grow_seconds: Annotated[float, Range(20, 86_400)] = 60.0
    """Seconds that slots for more workers must have been free before a run with too few is saved and takes them.
    Not under 20, the age of Ray's own count of nodes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Auto takes a GPU a worker where there are any."""

    cpus_per_worker: Annotated[int | None, Range(1, 1024)] = None
    """CPUs that a worker reserves, which are its threads for arithmetic (OMP) and, on a GPU, for decoding.
    None on GPUs is the node's CPUs by its GPUs, the least of all nodes with GPUs; on CPUs 1."""

    max_failures: Annotated[int, Range(0, MANY)] = 3
    """Restarts after lost workers, without a new checkpoint in between, before the run gives up.
    Nodes that leave with notice do not count."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Auto is bf16 autocast on GPUs and fp32 on CPUs."""

    deterministic: bool = False
    """Only deterministic kernels; slower on GPUs."""

    gradients: Literal["fp32", "bf16"] = "fp32"
    """How gradients travel between ranks: bf16 is half the bytes, where the network between nodes is slow."""

    @property
    def fewest_cpus(self) -> int:
        """The fewest CPUs that a worker may reserve."""
        return self.cpus_per_worker or 1

    @property
    def fewest(self) -> int:
        """The fewest ranks that the run may have."""
        return max(self.workers if self.min_workers is None else self.min_workers, 1)


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved."""

    every_steps: Annotated[int, Range(0, MANY)] = 0
    """Steps between checkpoints; 0 saves after each epoch only."""

    every_minutes: Annotated[float, Range(0, 1e6)] = 5.0
    """Minutes between checkpoints, so what a killed worker costs at most, beside the start of another; 0 for no clock.
    Training waits only while the tensors are copied, 0.1 to 0.3 s of CPU time for 180 to 680 MB; a thread writes them.
    The clock is looked at every `tracking.log_every` steps, where the ranks speak to each other anyway."""

    keep: Annotated[int, Range(1, MANY)] = 2
    """Newest checkpoints that are kept, beside the best."""


@dataclass(frozen=True)
class TrackingConfig:
    """Weights & Biases."""

    mode: Annotated[Literal["auto", "online", "offline", "disabled"], Often()] = "auto"
    """Auto is online where WANDB_API_KEY is set and offline elsewhere.
    A run that cannot be online, for want of a network or of a key that works, says so and is logged offline."""

    project: str = "hemodist"
    """W&B project."""

    log_every: Annotated[int, Range(1, MANY)] = 10
    """Steps between logged training rows."""

    images: Annotated[int, Range(0, 1000)] = 8
    """Validation slices shown with windows, labels and predictions after each epoch; 0 for none."""

    artifacts: bool = False
    """Upload the best checkpoint at the end."""

    profile: Annotated[int, Range(0, 1000)] = 0
    """Steps that rank 0 traces with torch's profiler, after five others; below the run's folder `profile`.
    On GPUs with a history of the memory. 0 for none."""

    ledger: bool = False
    """Write down which samples each committed step has read, below the run's folder `ledger`."""
