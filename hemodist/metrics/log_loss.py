"""The competition's score, the weighted log loss in natural logarithms, and the share that a constant answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hemodist.dataset.labels import LOSS_WEIGHTS, UNKNOWN
from hemodist.metrics.bootstrap import F64, Bool, ratio

EPSILON = 1e-15
"""Probabilities are clipped to [EPSILON, 1 - EPSILON] before a logarithm, as the competition's evaluation did."""


def weighted_log_loss(probability: F64, labels: npt.NDArray[np.integer[Any]]) -> float:
    """The competition's score: binary cross-entropy averaged with `LOSS_WEIGHTS` over all known label entries.

    With every label known this is the mean over slices of the weighted mean over labels (weights sum to 7).

    Args:
        probability: [n, 6], in [0, 1]; clipped by `EPSILON`.
        labels: [n, 6], values 0, 1 and `UNKNOWN`.

    Returns:
        Natural-logarithm loss; nan when no label is known.
    """
    loss, weight = weighted_entropy(probability, labels)
    return float(ratio(loss.sum(), weight.sum()))


def share_of_positives(labels: npt.NDArray[np.integer[Any]]) -> F64:
    """Share of positives among the known entries of each label, f64 [6], as counted; nan for one that nobody knows.

    What a network has to beat is not this but `hemodist.plan.prepare.prevalence`, which is never 0 or 1.
    """
    known = labels != UNKNOWN
    count = known.sum(axis=0)
    positive = (labels == 1).sum(axis=0)
    return ratio(positive, count)


def weighted_entropy(p: F64, labels: npt.NDArray[np.integer[Any]]) -> tuple[F64, F64]:
    """Weighted cross-entropy and weight of each slice's known labels, both [n]."""
    weight = np.array(LOSS_WEIGHTS) * (labels != UNKNOWN)
    return (weight * entropy(p, labels == 1)).sum(axis=1), weight.sum(axis=1)


def entropy(p: F64, positive: Bool) -> F64:
    """Binary cross-entropy of each slice for one label, f64 [n]; probabilities are clipped by `EPSILON`."""
    q = np.clip(p, EPSILON, 1 - EPSILON)
    return -np.log(np.where(positive, q, 1 - q))
