"""Groups that no split divides: samples that share a patient, a study, a series, a slice's UID or an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from shards.packing.identity import KINDS

I64 = npt.NDArray[np.int64]

MAX_VERSIONS = 4
"""A SOP Instance UID with at most so many different images is one patient's: an original, and what was made from it."""

CROWDED = (
    ("study", "patient", 3), ("series", "patient", 3), ("series", "study", 3),  # which the standard rules out
    ("patient", "study", 20), ("study", "series", 50),
    ("image", "patient", 20), ("image", "study", 20),
    ("group", "patient", 20), ("group", "study", 20), ("group", "series", 50),
)  # fmt: skip
"""What is no identity any more: one of the first on at least so many of the second, and on more than half of all.

Patients come back, and a study may be exported under two patient IDs; but nobody has half of a hospital's studies.
"""

_NAMES = {"patient": "patient ID", "study": "study UID", "series": "series UID", "image": "image", "group": "group"}
_PLURAL = {"patient": "patients", "study": "studies", "series": "series"}


def numbers(column: pa.ChunkedArray) -> I64:
    """A number for each different value, int64 [rows]; nulls are -1."""
    encoded = column.combine_chunks().dictionary_encode()
    codes: I64 = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def shared_identifiers(uid: I64, image: I64) -> tuple[int, I64]:
    """How many UIDs came with several images; and `uid` without those of more than `MAX_VERSIONS`, which say nothing.

    Careless de-identification gives one UID to many slices; a few images of one UID are a slice that was made anew.
    """
    known = uid >= 0
    size = image.max(initial=0) + 1
    images = np.bincount(np.unique(uid[known] * size + image[known]) // size, minlength=1)
    return int(np.count_nonzero(images > 1)), np.where(known & (images[uid] <= MAX_VERSIONS), uid, -1)


def join(shared: Mapping[str, I64]) -> tuple[I64, dict[str, int]]:
    """Join samples with a value in common, transitively.

    Args:
        shared: by kind, a number of each sample's value, int64 [rows]; -1 for none.

    Returns:
        The group of each sample, int64 [rows], numbered in the order of first appearance. And the number of joins by
        kind: how many groups fewer there are with it than with the kinds before it alone.
    """
    group = np.arange(len(next(iter(shared.values()))))
    joins = {}
    for kind, values in shared.items():
        before, known = int(group.max(initial=-1)) + 1, values >= 0
        size = before + int(values.max(initial=-1)) + 1
        ends = group[known], before + values[known]
        edges = coo_array((np.ones(len(ends[0]), np.int32), ends), shape=(size, size))
        group = numbered(connected_components(edges, directed=False)[1][group]) if size else group
        joins[kind] = before - int(group.max(initial=-1)) - 1
    return group, joins


def one_spelling(names: pa.ChunkedArray, number: I64) -> tuple[pa.Array, int]:
    """Give all spellings of an identifier the pseudonym of the first one; and how many had several.

    Args:
        names: pseudonyms, a row a sample.
        number: the same for all spellings of an identifier, int64 [rows]; -1 makes the name null.
    """
    spelled, known = numbers(names), number >= 0
    pairs = np.unique(number[known] * (spelled.max(initial=0) + 1) + spelled[known]) // (spelled.max(initial=0) + 1)
    respelled = int(np.count_nonzero(np.bincount(pairs, minlength=1) > 1))
    if not respelled and np.count_nonzero(known) == len(names) - names.null_count:
        return names.combine_chunks(), 0
    first = np.zeros(int(number.max(initial=-1)) + 1, np.int64)
    found, row = np.unique(number[known], return_index=True)
    first[found] = np.flatnonzero(known)[row]
    rows = pa.array(np.append(first, 0)[number], mask=~known)
    return names.combine_chunks().take(rows), respelled


def crowded(shared: Mapping[str, I64], group: I64, keys: pa.ChunkedArray) -> str | None:
    """What is wrong where one value stands on most of what it should tell apart, and what helps; None where none does.

    Args:
        shared: as for `join`; patient, study, series and image.
        group: of each sample, int64 [rows].
        keys: of the samples: a message may name slices, and no patient.
    """
    values = {**shared, "group": group}
    for kind, held, least in CROWDED:
        known = (values[kind] >= 0) & (values[held] >= 0)
        size = int(values[held].max(initial=0)) + 1
        pairs = np.unique(values[kind][known] * size + values[held][known])
        holds = np.bincount(pairs // size, minlength=1)
        most, total = int(holds.max()), len(np.unique(pairs % size))
        if most >= least and 2 * most > total:
            key = keys[int((values[kind] == holds.argmax()).argmax())]
            if kind in KINDS:
                helps = f"shard again with --ignore-ids {kind} (the shards are kept), or give each its own identifier"
            else:
                helps = "remove copies of one image, or look for identifiers that say nothing (--ignore-ids KIND)"
            return (
                f"one {_NAMES[kind]} stands on {most:,} of {total:,} {_PLURAL[held]}, slice {key} among them, so that "
                f"they are one group that no split may divide; {helps}"
            )
    return None


def facts(shared: Mapping[str, I64], group: I64, joins: Mapping[str, int], respelled: int) -> dict[str, Any]:
    """What the manifest says of groups and identifiers, in numbers."""
    nameless = np.all([shared[kind] < 0 for kind in KINDS], axis=0)
    return {
        "groups": int(group.max(initial=-1)) + 1,
        "largest_group": int(np.bincount(group, minlength=1).max()),
        "joins": dict(joins),
        "respelled": respelled,
        "nameless": int(np.count_nonzero(nameless)),
    }


def numbered(values: npt.NDArray[Any]) -> I64:
    """Dense numbers in the order of first appearance."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    result: I64 = rank[inverse]
    return result
