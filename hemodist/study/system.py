"""One system of a study: its scores, resampled, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hemodist.metrics.bootstrap import Estimate
from hemodist.metrics.paired import LOG_LOSS, ResampledScores
from hemodist.training.early_stopping import score_as_loss

Kind = Literal["constant", "classical", "network"]


@dataclass(frozen=True, eq=False)
class System:
    """One system of the study.

    Attributes:
        name: of recipe or method.
        kind: a constant answer, a classical method or a network.
        resampled: its scores on the slices and on every resample of their patients.
        parameters: numbers fitted.
        seconds: of training with validation, a number a seed; of a classical method reading, measuring and fitting.
        images_per_s: while training, a number a seed.
        seeds: that networks were trained from.
        histories: a row an epoch, a list a seed.
        chosen_by: the score on the validation split by which a checkpoint of each seed was chosen.
    """

    name: str
    kind: Kind
    resampled: ResampledScores
    parameters: int
    seconds: tuple[float, ...] = ()
    images_per_s: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    histories: tuple[list[dict[str, Any]], ...] = ()
    chosen_by: str = LOG_LOSS

    @property
    def time(self) -> float:
        """Mean of `seconds`; nan where there are none."""
        return float(np.mean(self.seconds)) if self.seconds else math.nan

    def estimate(self, score: str) -> Estimate:
        """The mean over seeds with its interval over patients."""
        return self.resampled.estimate(score)

    def spread(self, score: str) -> tuple[float, float]:
        """The lowest and the highest score of a seed."""
        return float(self.resampled.value[score].min()), float(self.resampled.value[score].max())

    def scored_rows(self) -> list[dict[str, Any]]:
        """The row of each seed's history whose checkpoint was scored: the best by `chosen_by`."""

        def bad(row: Mapping[str, Any]) -> float:
            value = None if row[self.chosen_by] is None else score_as_loss(row, self.chosen_by)
            return math.inf if value is None else value

        return [min(history, key=bad) for history in self.histories]
