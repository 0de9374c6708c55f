"""What a split cannot teach and cannot tell: labels that nobody knows there, or of which it has one kind only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hemodist.dataset.labels import LABELS, LOSS_WEIGHTS, UNKNOWN
from hemodist.plan.split import fold_of

Labels = npt.NDArray[np.int8]


def kinds(labels: Labels) -> npt.NDArray[np.int8]:
    """How many kinds (positive, negative) of each label are known among the rows of int8 [n, 6], int8 [6].

    A label of both kinds can be learned, and only of such a label is there an AUC.

    >>> kinds(np.array([[1, 0, -1, 1, 0, 1], [0, 0, -1, -1, 1, 0]], np.int8)).tolist()
    [2, 1, 0, 1, 2, 2]
    """
    found: npt.NDArray[np.int8] = (labels == 1).any(axis=0).astype(np.int8) + (labels == 0).any(axis=0)
    return found


def known_share(labels: Labels, times: npt.NDArray[np.int64] | None) -> float:
    """The share of the labels' weights (`LOSS_WEIGHTS`) that is known on average; 1 where every label is known.

    Args:
        labels: int8 [n, 6].
        times: int64 [n], how often each slice is read, up to a factor; None for equally often.
    """
    known = (labels != UNKNOWN) @ np.array(LOSS_WEIGHTS) / sum(LOSS_WEIGHTS)
    return float(np.average(known, weights=times))


def not_learned_note(labels: Labels) -> str:
    """Which labels the training split, int8 [n, 6], cannot teach, and what follows; empty where it teaches all."""
    taught = kinds(labels) == 2
    if taught.all():
        return ""
    said = _listed({name: _missing(labels[:, i]) for i, name in enumerate(LABELS) if not taught[i]})
    return (
        f"the training split has {said}. The network cannot learn such a label: predictions leave it blank, and RSNA's "
        "rows hold a constant, its share in the training split (0.5 where nothing is known)"
    )


def validation_note(
    labels: Labels, valid: npt.NDArray[np.int64], groups: npt.NDArray[np.int32], usable: npt.NDArray[np.bool_],
    *, folds: int, fold: int, seed: int,
) -> str:  # fmt: skip
    """Of which labels the validation split lacks one kind, and which folds have both; empty where it has all.

    Labels that nobody knows in any fold are left to `not_learned_note`.

    Args:
        labels: int8 [samples, 6].
        valid: int64 [n], rows of the validation split.
        groups: int32 [samples].
        usable: bool [samples], see `plan.split.split`.
        folds: number of folds.
        fold: the one that validates.
        seed: key of the fold hash.
    """
    told = (kinds(labels[valid]) == 2) | (kinds(labels[usable]) == 0)
    if told.all():
        return ""
    fold_numbers = fold_of(groups, folds, seed)
    in_fold = [kinds(labels[usable & (fold_numbers == number)]) == 2 for number in range(folds)]
    lacking = [i for i in range(len(LABELS)) if not told[i]]
    elsewhere = [
        f"{LABELS[i]} {', '.join(str(number) for number, both in enumerate(in_fold) if both[i]) or 'none'}"
        for i in lacking
    ]
    said = _listed({LABELS[i]: _missing(labels[valid, i]) for i in lacking})
    return (
        f"validation fold {fold} has {said} among its {len(valid):,} slices: it has no AUC of such a label, and its "
        f"other scores do not say whether the label is found. Folds with both kinds: {'; '.join(elsewhere)}"
    )


def _missing(column: Labels) -> str:
    """What a label lacks."""
    if (column == UNKNOWN).all():
        return "nothing known"
    return "no negative" if (column == 1).any() else "no positive"


def _listed(missing: dict[str, str]) -> str:
    """Labels by what they lack, such as "no positive of epidural, subdural and nothing known of any"."""
    kinds = dict.fromkeys(missing.values())
    return " and ".join(
        f"{kind} of {', '.join(name for name, lacks in missing.items() if lacks == kind)}" for kind in kinds
    )
