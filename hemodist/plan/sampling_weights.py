"""How often each training slice is read: integer weights from its labels. Pure.

An epoch stays as long as the training split, whatever the weights: `order` beside this module says what it then reads.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hemodist.dataset.labels import LABELS

SCALE = 2**36
"""Weight of a class as a whole; divided among its samples, it is right to 1 in 50,000 for a million of them."""

Ints = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int8]


def classes(labels: Labels) -> npt.NDArray[np.int64]:
    """The class of each sample for balancing: its rarest positive subtype, so that a mixed bleed counts as that.

    Args:
        labels: int8 [n, 6] of the training split, values 0, 1 and `UNKNOWN`.

    Returns:
        int64 [n]: the position of the label in `LABELS`, where `any` means positive without a known subtype; or
        `len(LABELS)` without any positive label.
    """
    positive = labels == 1
    common_to_rare = np.argsort(-positive.sum(axis=0)[1:], kind="stable") + 1
    found = np.full(len(labels), len(LABELS))
    for label in (LABELS.index("any"), *common_to_rare):
        found[positive[:, label]] = label
    return found


def balanced(labels: Labels) -> Ints:
    """Weights under which an epoch reads each class of `classes` equally often; int64 [n], all positive."""
    found = classes(labels)
    counts = np.bincount(found, minlength=len(LABELS) + 1)
    return np.asarray(SCALE // counts[found], np.int64)


def weighted(labels: Labels, label_weights: tuple[int, ...]) -> Ints:
    """Weights by label: the largest one of a sample's positive labels, and 1 for a sample without any.

    Args:
        labels: int8 [n, 6].
        label_weights: six integers, 0 or more, in the order of `LABELS`.

    Returns:
        int64 [n].
    """
    of_label = np.where(labels == 1, np.array(label_weights, np.int64), -1).max(axis=1)
    return np.where(of_label < 0, 1, of_label)
