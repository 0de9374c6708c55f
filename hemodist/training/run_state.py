"""Where a run stands beside its weights: the part `state` of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hemodist.config.run import Run
from hemodist.plan.order import Plan
from hemodist.plan.prepare import Prepared


@dataclass(frozen=True)
class RunState:
    """Where a run stands, over all ranks. The fields are the keys in the checkpoint.

    Attributes:
        dataset: digest of the data set.
        split: digest of the split.
        seed: the run's.
        step: optimizer updates made.
        history: a row an epoch.
        epoch_loss: sum of the losses of the samples of the epoch so far.
        epoch_weight: of the labels' weights of those samples, how much is known (`training.loss`), 1 a sample.
        epoch_seconds: that the epoch has taken so far.
        nonfinite: steps without an update in a row, up to now.
        skipped: steps without an update in the whole run.
        logged: the rows of the run's log at W&B.
    """

    dataset: str
    split: str
    seed: int
    step: int
    history: list[dict[str, Any]]
    epoch_loss: float
    epoch_weight: float
    epoch_seconds: float
    nonfinite: int
    skipped: int
    logged: list[dict[str, Any]]

    @classmethod
    def at_start(cls, run: Run, prepared: Prepared) -> RunState:
        """Of a run that has made no step."""
        digests = (prepared.dataset.manifest.digest, prepared.split.digest)
        return cls(*digests, run.seed, 0, [], 0.0, 0.0, 0.0, 0, 0, [])

    @classmethod
    def read(cls, state: Mapping[str, Any], plan: Plan) -> RunState:
        """From a checkpoint; those of version 0.1.0 do not say how many samples the loss was summed over."""
        return cls(**{"epoch_weight": _images_of_epoch(plan, state["step"]), **state})

    def to_dict(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return dict(vars(self))


def _images_of_epoch(plan: Plan, step: int) -> int:
    """Images of the global batches since the last epoch's end."""
    epochs = step * plan.global_batch_size // len(plan.rows)
    return (step - plan.steps(epochs)) * plan.global_batch_size
