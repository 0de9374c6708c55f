"""What the ranks and Ray's controller tell the driver while a job runs: a dataclass for each thing that can happen.

Whoever listens takes an `Event` and asks for its class, so that mypy checks which fields there are, and with
`assert_never` that nothing was forgotten. Events travel between processes, and the process that keeps them for the
driver is made of little: nothing here imports torch or Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from hemodist.errors import UserError


@dataclass(frozen=True)
class AttemptStarted:
    """Ray has started workers, and rank 0 speaks up before it does anything else.

    Attributes:
        workers: ranks of this attempt.
    """

    workers: int


@dataclass(frozen=True)
class WorkersLost:
    """Workers are dead or have raised an error. Told again every second while the others of their group end.

    Attributes:
        cause: which workers, and why as far as that is known.
        detail: the traceback of one of them; empty where there is none.
        error: what a user can act on, where one of them has raised it.
    """

    cause: str
    detail: str
    error: UserError | None


@dataclass(frozen=True)
class Failed:
    """A rank has met a mistake of the user, which another attempt would meet again.

    Attributes:
        error: the mistake; its text says what to change.
    """

    error: UserError


@dataclass(frozen=True)
class Started:
    """The ranks have read their checkpoint, if there is one, and training begins.

    Attributes:
        step: optimizer updates that the checkpoint holds; 0 for a new run.
        total: optimizer updates of the whole run.
        workers: ranks.
    """

    step: int
    total: int
    workers: int


@dataclass(frozen=True)
class StepDone:
    """A step was made whose figures are logged; see `tracking.log_every`.

    Attributes:
        step: optimizer updates made.
        total: optimizer updates of the whole run.
        loss: mean over the global batch, in nats.
        corrupt_samples: training samples masked out so far, over all ranks.
        images_per_s: over all ranks, since the last logged step.
        data_wait_share: of that time, how much this rank has waited for data, 0 to 1.
        device_share: of that time, how much this rank has waited until its device had computed, 0 to 1; the rest is
            the host's. A CPU computes while the host waits, a GPU beside it: there it is what the host is too early.
        communication_share: of that time, how long this rank's gradient was computed and that of all ranks not there
            yet, 0 to 1; waiting for a slower rank is part of it. 0 on one rank.
        gpu_memory_gib: the most that tensors have taken of this rank's GPU, in GiB; None on a CPU.
        mfu: share of the GPUs' peak arithmetic that the network uses, 0 to 1; None where the peak is not known.
    """

    step: int
    total: int
    loss: float
    corrupt_samples: int
    images_per_s: float
    data_wait_share: float
    device_share: float = 0.0
    communication_share: float = 0.0
    gpu_memory_gib: float | None = None
    mfu: float | None = None


@dataclass(frozen=True)
class EpochDone:
    """An epoch has ended and its validation too.

    Attributes:
        row: its row of the run's history; see `Training.validate`.
    """

    row: Mapping[str, Any]


@dataclass(frozen=True)
class EvaluationProgress:
    """A network runs over a split.

    Attributes:
        done: samples of this rank's part so far.
        total: samples of this rank's part.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Saved:
    """A checkpoint is written, whole.

    Attributes:
        step: optimizer updates that it holds.
    """

    step: int


@dataclass(frozen=True)
class Note:
    """Something that the user should read.

    Attributes:
        text: one or more sentences.
    """

    text: str


Event: TypeAlias = (
    AttemptStarted | WorkersLost | Failed | Started | StepDone | EpochDone | EvaluationProgress | Saved | Note
)

Tell: TypeAlias = Callable[[Event], None]
"""How a rank says what happens."""
