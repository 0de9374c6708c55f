"""The run's figures for Prometheus: gauges on Ray's own endpoint, beside Ray's metrics, named `ray_hemodist_...`.

The training loop knows nothing of this: `Observed` wraps the `Tell` that the loop is given, and turns events into
gauges. A process outside a Ray cluster shows nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import ray
from ray.util.metrics import Gauge

from hemodist.events import AttemptStarted, EpochDone, Event, Saved, Started, StepDone, Tell

GAUGES: Mapping[str, tuple[str, str]] = {
    "step": ("hemodist_step", "Optimizer updates made."),
    "total": ("hemodist_steps_total", "Optimizer updates of the whole run."),
    "loss": ("hemodist_loss", "Mean training loss of the last logged global batch."),
    "images_per_s": ("hemodist_images_per_s", "Images a second over all ranks, since the last logged step."),
    "data_wait_share": ("hemodist_data_wait_share", "Share of the time that this rank waited for data, 0 to 1."),
    "device_share": ("hemodist_device_share", "Share of the time that this rank waited for its device, 0 to 1."),
    "communication_share": (
        "hemodist_communication_share",
        "Share of the time that this rank's device waited for the other ranks' gradients, 0 to 1.",
    ),
    "corrupt_samples": ("hemodist_corrupt_samples", "Training samples masked out since they fail their checksum."),
    "gpu_memory_gib": ("hemodist_gpu_memory_gib", "Most GPU memory that tensors have taken, GiB."),
    "mfu": ("hemodist_mfu", "Share of the GPUs' peak arithmetic that the network uses, 0 to 1."),
    "workers": ("hemodist_workers", "Ranks of the run."),
}
"""For each figure that an event may hold: the name of its gauge, and what it means."""

EPOCH: Mapping[str, tuple[str, str]] = {
    "epoch": ("hemodist_epoch", "Epochs that have ended, their validation too."),
    "train_loss": ("hemodist_train_loss", "Mean training loss over the last epoch."),
    "valid_loss": ("hemodist_valid_loss", "Weighted log loss over the validation split after the last epoch."),
    "auc_any": ("hemodist_auc_any", "AUC of any hemorrhage over the validation split after the last epoch."),
}
"""For each figure of an epoch's row that is shown: the name of its gauge, and what it means."""

CHECKPOINT = ("hemodist_checkpoint_time_s", "When the newest checkpoint was made, seconds since 1970.")
"""The time, since an age would stand still when the process hangs. In Prometheus, `time() - ...` gives the age."""

SHARDING: Mapping[str, tuple[str, str]] = {
    "slices": ("hemodist_shard_slices", "Source files done, those found done included."),
    "rejected": ("hemodist_shard_rejected", "Source files that could not be used or were not asked for."),
    "slices_per_s": (
        "hemodist_shard_slices_per_s",
        "Source files done a second since the start.",
    ),
}
"""The sharder's figures: the name of each gauge, and what it means."""


class Observed:
    """A `Tell` that shows the figures of events as gauges, and passes every event on."""

    def __init__(self, tell: Tell, run: str, rank: int) -> None:
        """Wrap a `Tell`.

        Args:
            tell: whom events are passed on to.
            run: the run's name; a label of every gauge.
            rank: of this process; the other label.
        """
        self._tell = tell
        self._gauges = Gauges({"run": run, "rank": str(rank)})

    def __call__(self, event: Event) -> None:
        """Show and pass on. Texts are not shown: a label that changes makes a new series each time."""
        if isinstance(event, AttemptStarted | Started | StepDone):
            for name, value in asdict(event).items():
                if value is not None:
                    self._gauges.set(*GAUGES[name], value)
        elif isinstance(event, EpochDone):
            for name, gauge in EPOCH.items():
                self._gauges.set(*gauge, event.row[name])
        elif isinstance(event, Saved):
            self._gauges.set(*CHECKPOINT, time.time())
        self._tell(event)


class Result(Protocol):
    """The part of a sharding task's result that is shown."""

    @property
    def samples(self) -> int:
        """Files that became samples."""

    @property
    def rejected(self) -> int:
        """Files that did not become samples."""

    @property
    def resumed(self) -> bool:
        """Whether an earlier run had made this shard."""


def observed_shards(progress: Callable[[Any], None], run: str) -> Callable[[Any], None]:
    """Wrap the sharder's progress, so that its figures are shown as gauges too.

    Args:
        progress: called with the result of every task.
        run: label of the gauges.
    """
    gauges = Gauges({"run": run, "rank": "0"})
    start, done, rejected, written = time.monotonic(), 0, 0, 0

    def both(result: Result) -> None:
        nonlocal done, rejected, written
        files = result.samples + result.rejected
        done, rejected = done + files, rejected + result.rejected
        written += 0 if result.resumed else files
        rate = written / max(time.monotonic() - start, 1e-9)
        for name, value in {"slices": done, "rejected": rejected, "slices_per_s": rate}.items():
            gauges.set(*SHARDING[name], value)
        progress(result)

    return both


class Gauges:
    """Gauges with the same labels; each is made when it is first set."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        """Keep the labels."""
        self._labels = dict(labels)
        self._made: dict[str, Gauge] = {}

    def set(self, name: str, meaning: str, value: float) -> None:
        """Set a gauge; does nothing outside a Ray cluster."""
        if not ray.is_initialized():
            return
        if name not in self._made:
            self._made[name] = Gauge(name, description=meaning, tag_keys=tuple(self._labels))
            self._made[name].set_default_tags(self._labels)
        self._made[name].set(float(value))
