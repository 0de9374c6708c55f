"""Which samples train, validate and test: folds of groups, and nested subsets. Pure.

Splits are decided when a run starts, not when shards are written. A group (a patient joined with every patient who
shares an identical image) falls into a fold by a keyed hash of its number, so no group is ever on both sides, and any
fold or subset is a query on the index.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.errors import ConfigError
from hemodist.plan.philox import Purpose, words

SUBSET_TRAIN_SHARE = (1238, 1500)
"""Train slices of the original study's subset of 1,500; other sizes keep the proportion."""

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Rows of the index by role.

    Attributes:
        train: int64 [n_train], increasing, so in shard order.
        valid: int64 [n_valid], increasing.
        test: int64 [n_test], increasing; empty where no fold is held out.
        digest: SHA-256 of roles and rows; a resumed run must have the same.
    """

    train: Rows
    valid: Rows
    test: Rows
    digest: str


def fold_of(groups: npt.NDArray[np.int32], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold of each sample.

    Args:
        groups: int32 [n], 0 or more.
        folds: number of folds, 2 or more.
        seed: key of the hash.

    Returns:
        int64 [n], 0 to `folds` - 1; equal for equal groups.
    """
    return words(seed, Purpose.FOLD, groups)[:, 0].astype(np.int64) * folds >> 32


def split(
    groups: npt.NDArray[np.int32],
    usable: npt.NDArray[np.bool_],
    *,
    folds: int,
    valid_fold: int,
    test_fold: int | None = None,
    seed: int = 0,
    subset: int | None = None,
) -> Split:
    """Divide the samples of an index.

    Args:
        groups: int32 [n], the index's column `group`.
        usable: bool [n]; second copies of a slice and wholly unlabelled samples are not.
        folds: number of folds, 2 or more.
        valid_fold: the fold that validates, 0 to `folds` - 1; the others train.
        test_fold: a fold that neither trains nor validates; None for none.
        seed: key of the fold hash; another seed gives other folds.
        subset: total number of samples that train and validate, or None for all: the first ones in shard order of
            either side, in the proportion 1,238 to 262 of the original study. A larger subset contains every smaller
            one. The test fold stays whole, so that scores of different subsets can be compared.

    Raises:
        ConfigError: folds out of range, or a side that would be empty or too small for the subset.
    """
    if folds < 2 or not 0 <= valid_fold < folds:
        raise ConfigError(
            f"data.valid_fold {valid_fold} of data.folds {folds}: use 2 or more folds and a fold from 0 to folds - 1"
        )
    if test_fold is not None and (not 0 <= test_fold < folds or test_fold == valid_fold or folds < 3):
        raise ConfigError(
            f"data.test_fold {test_fold} beside data.valid_fold {valid_fold} of data.folds {folds}: "
            "use 3 or more folds and two different ones from 0 to folds - 1"
        )
    fold = fold_of(groups, folds, seed)
    train = np.flatnonzero(usable & (fold != valid_fold) & (fold != (-1 if test_fold is None else test_fold)))
    valid = np.flatnonzero(usable & (fold == valid_fold))
    test = train[:0] if test_fold is None else np.flatnonzero(usable & (fold == test_fold))
    if subset is not None:
        numerator, denominator = SUBSET_TRAIN_SHARE
        wanted_train = round(subset * numerator / denominator)
        wanted = {"train": (wanted_train, len(train)), "valid": (subset - wanted_train, len(valid))}
        for role, (needed, found) in wanted.items():
            if needed < 1 or needed > found:
                raise ConfigError(
                    f"data.subset {subset} needs {needed} {role} slices, fold {valid_fold} of {folds} has {found}; "
                    "use a smaller subset (6 or more), another data.valid_fold or a larger data set"
                )
        train, valid = train[:wanted_train], valid[: subset - wanted_train]
    if not len(train) or not len(valid):
        raise ConfigError(
            f"fold {valid_fold} of {folds} leaves {len(train)} train and {len(valid)} valid slices of "
            f"{int(usable.sum())} usable ones in {len(np.unique(groups))} groups; use another data.valid_fold, "
            "fewer data.folds, or a data set with more patients and labels"
        )
    if test_fold is not None and not len(test):
        raise ConfigError(
            f"data.test_fold {test_fold} of {folds} holds no usable slice; use another data.test_fold, "
            "fewer data.folds, or a data set with more patients and labels"
        )
    return Split(train, valid, test, _digest(train, valid, *([test] if len(test) else [])))


def _digest(*parts: Rows) -> str:
    digest = hashlib.sha256()
    for rows in parts:
        digest.update(json.dumps(len(rows)).encode())
        digest.update(rows.astype("<i8").tobytes())
    return digest.hexdigest()


def label_report(labels: npt.NDArray[np.int8], parts: dict[str, Rows]) -> dict[str, dict[str, int | str]]:
    """Positive counts by part and label, beside the number of slices.

    Args:
        labels: int8 [n, 6].
        parts: rows by name.

    Returns:
        For each part `{"slices": ..., "any": ..., ...}`; "unknown" for a label that nobody knows on any of its slices.
    """

    def positives(values: npt.NDArray[np.int8]) -> int | str:
        return int((values == 1).sum()) if (values != UNKNOWN).any() else "unknown"

    return {
        name: {"slices": len(rows), **{label: positives(labels[rows, i]) for i, label in enumerate(LABELS)}}
        for name, rows in parts.items()
    }


def fold_report(
    labels: npt.NDArray[np.int8],
    groups: npt.NDArray[np.int32],
    usable: npt.NDArray[np.bool_],
    *,
    folds: int,
    seed: int = 0,
) -> dict[str, dict[str, int | str]]:
    """Positive counts by fold and label, beside the numbers of slices and groups: how evenly a hash has divided.

    Args:
        labels: int8 [n, 6].
        groups: int32 [n].
        usable: bool [n], see `split`.
        folds: number of folds.
        seed: key of the fold hash.

    Returns:
        For each fold, by its number as text, `{"slices": ..., "any": ..., ..., "groups": ...}`.
    """
    fold = fold_of(groups, folds, seed)
    parts = {str(number): np.flatnonzero(usable & (fold == number)) for number in range(folds)}
    counts = label_report(labels, parts)
    return {name: counts[name] | {"groups": len(np.unique(groups[rows]))} for name, rows in parts.items()}
