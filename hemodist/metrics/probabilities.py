"""From a network's logits to probabilities, and whether those of one slice fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hemodist.dataset.labels import LABELS
from hemodist.metrics.bootstrap import F64, Bool

DECISION = 0.5
"""A label is decided present where its probability is strictly above this (fastai's `accuracy_multi`)."""


def probabilities(logits: npt.NDArray[np.floating[Any]], learned: Bool | None = None) -> F64:
    """The logistic function of finite logits [n, 6], without overflow, in float64.

    Args:
        logits: [n, 6].
        learned: [6], the labels that the network has learned; the others' probabilities are NaN. None for all.

    >>> probabilities(np.array([[-1000.0, 0.0, 1000.0]])).tolist()
    [[0.0, 0.5, 1.0]]
    """
    x = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ValueError(
            f"{np.count_nonzero(~np.isfinite(x))} of {x.size} logits are not finite: the network "
            "has diverged; lower the learning rate or look at the inputs"
        )
    tail = np.exp(-np.abs(x))  # at most 1, so nothing overflows
    found = np.where(x >= 0, 1.0, tail) / (1.0 + tail)
    return found if learned is None else np.where(learned, found, np.nan)


def with_prevalence(probability: F64, prevalence: F64) -> F64:
    """The same probabilities, f64 [n, 6], with a label's `prevalence` [6] where it was not learned (NaN)."""
    return np.where(np.isnan(probability), prevalence, probability)


def repair_any(probability: F64) -> F64:
    """The same probabilities, f64 [n, 6], with P(any) raised to the largest P of a subtype where it is below.

    A hemorrhage of any kind is a hemorrhage, so P(any) cannot be less than P of a kind. A label that was not learned
    (NaN) raises nothing and stays as it is.
    """
    any_, subtypes = LABELS.index("any"), [i for i, name in enumerate(LABELS) if name != "any"]
    repaired = probability.copy()
    largest = np.fmax.reduce(probability[:, subtypes], axis=1)  # NaN only where all are
    repaired[:, any_] = np.where(largest > probability[:, any_], largest, probability[:, any_])
    return repaired


def comparable(probability: F64) -> Bool:
    """Where P(any) and P of a subtype are there (not NaN), so that the one may be below the other, bool [n]."""
    any_ = LABELS.index("any")
    there = ~np.isnan(probability)
    return there[:, any_] & np.delete(there, any_, axis=1).any(axis=1)


def inconsistent(probability: F64) -> Bool:
    """Where P(any) is below the largest P of a subtype, bool [n]."""
    any_ = LABELS.index("any")
    return repair_any(probability)[:, any_] > probability[:, any_]
