"""From a network's logits to probabilities, and whether those of one slice fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hemodist.dataset.labels import LABELS
from hemodist.metrics.bootstrap import F64, Bool

DECISION = 0.5
"""A label is decided present where its probability is strictly above this (fastai's `accuracy_multi`)."""


def probabilities(logits: npt.NDArray[np.floating[Any]]) -> F64:
    """The logistic function of finite logits [n, 6], without overflow, in float64.

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
    return np.where(x >= 0, 1.0, tail) / (1.0 + tail)


def repair_any(probability: F64) -> F64:
    """The same probabilities, f64 [n, 6], with P(any) raised to the largest P of a subtype where it is below.

    A hemorrhage of any kind is a hemorrhage, so P(any) cannot be less than P of a kind.
    """
    any_, subtypes = LABELS.index("any"), [i for i, name in enumerate(LABELS) if name != "any"]
    repaired = probability.copy()
    repaired[:, any_] = np.maximum(probability[:, any_], probability[:, subtypes].max(axis=1))
    return repaired


def inconsistent(probability: F64) -> Bool:
    """Where P(any) is below the largest P of a subtype, bool [n]."""
    changed: Bool = (repair_any(probability) != probability).any(axis=1)
    return changed
