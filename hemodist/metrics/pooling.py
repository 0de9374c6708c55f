"""From slices to studies and patients: probabilities pooled over slices, labels with them.

A study shows a hemorrhage where any of its slices does. Its probability is the largest of its slices' (`maximum`), or,
if they were independent, one minus the chance that every slice is free (`noisy_or`); slices of a study are not
independent, so the latter is too high and is given for its order rather than its value.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hemodist.dataset.labels import UNKNOWN
from hemodist.metrics.bootstrap import F64, I64, Estimate, mean_estimate, resamples
from hemodist.metrics.log_loss import share_of_positives, weighted_entropy, weighted_log_loss
from hemodist.metrics.scores import LabelScores, scores_by_label

Pooling = Literal["maximum", "noisy_or"]
POOLINGS: tuple[Pooling, ...] = ("maximum", "noisy_or")


@dataclasses.dataclass(frozen=True)
class PooledScores:
    """Scores of the studies or patients of a split.

    Attributes:
        level: `study` or `patient`.
        pooling: How slices became one probability.
        units: Studies or patients.
        weighted_log_loss: As for slices, `any` twice.
        constant_prevalence: What these units' own prevalence scores, the best that a constant can.
        labels: Scores of each label, in the order of `LABELS`.
    """

    level: str
    pooling: Pooling
    units: int
    weighted_log_loss: Estimate
    constant_prevalence: float
    labels: tuple[LabelScores, ...]


@dataclasses.dataclass(frozen=True)
class Pooled:
    """Which slices belong to which unit (study or patient); units in the order in which their names sort.

    Attributes:
        names: [u].
        first: int64 [u], the first slice of each.
        unit: int64 [n], the unit of each slice.
    """

    names: npt.NDArray[Any]
    first: I64
    unit: I64

    @classmethod
    def of(cls, names: npt.NDArray[Any]) -> Pooled:
        """Units by the name that each slice carries, [n]."""
        found, first, unit = np.unique(names, return_index=True, return_inverse=True)
        return cls(found, first.astype(np.int64), unit.astype(np.int64))

    def probability(self, probability: F64, pooling: Pooling) -> F64:
        """The pooled probabilities, f64 [u, 6], of the slices' f64 [n, 6]."""
        if pooling == "maximum":
            largest = np.zeros((len(self.names), probability.shape[1]))
            np.maximum.at(largest, self.unit, probability)
            return largest
        free = np.zeros((len(self.names), probability.shape[1]))  # logarithm of the chance that no slice shows any
        with np.errstate(divide="ignore"):
            np.add.at(free, self.unit, np.log1p(-probability))
        return -np.expm1(free)

    def labels(self, labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int8]:
        """The units' labels, int8 [u, 6]: 1 where a slice has it, 0 where all slices are known to be without."""
        pooled = np.zeros((len(self.names), labels.shape[1]), np.int8)
        unknown, present = pooled.astype(bool), pooled.astype(bool)
        np.logical_or.at(unknown, self.unit, labels == UNKNOWN)
        np.logical_or.at(present, self.unit, labels == 1)
        pooled[unknown] = UNKNOWN
        pooled[present] = 1
        return pooled


def unit_names(level: list[str | None], fallback: npt.NDArray[Any]) -> npt.NDArray[np.str_]:
    """The unit of each slice, str [n]: its study or patient; where the file named none, its `fallback` in brackets.

    >>> unit_names(["a", None], np.array([7, 7])).tolist()
    ['a', '(7)']
    """
    return np.array([f"({own})" if name is None else name for name, own in zip(level, fallback, strict=True)], np.str_)


def pooled_scores(
    level: str,
    names: npt.NDArray[Any],
    probability: F64,
    labels: npt.NDArray[np.integer[Any]],
    groups: npt.NDArray[Any],
    *,
    bootstrap: int = 500,
    seed: int = 0,
) -> list[PooledScores]:
    """Scores of the units, for each pooling.

    Args:
        level: For the reader: `study` or `patient`.
        names: [n], the unit of each slice; a unit lies in one group.
        probability: [n, 6], in [0, 1].
        labels: [n, 6], values 0, 1 and `UNKNOWN`.
        groups: [n], what is resampled.
        bootstrap: Replicates of the intervals.
        seed: Key of the generator.

    Returns:
        One for each of `POOLINGS`; none where no unit has a known label.
    """
    pooled = Pooled.of(names)
    truth = pooled.labels(labels)
    if (truth == UNKNOWN).all():
        return []
    group = np.unique(groups[pooled.first], return_inverse=True)[1].astype(np.int64)
    counts = resamples(int(group.max()) + 1, bootstrap, seed)
    own = np.nan_to_num(share_of_positives(truth), nan=0.5)  # a label that is known nowhere is never looked at
    found = []
    for pooling in POOLINGS:
        p = pooled.probability(probability, pooling)
        loss = mean_estimate(*weighted_entropy(p, truth), group, counts)
        constant = weighted_log_loss(np.broadcast_to(own, p.shape), truth)
        labelled = scores_by_label(p, truth, group, counts)
        found.append(PooledScores(level, pooling, len(p), loss, constant, labelled))
    return found
