"""The index of a data set: which samples are duplicates, which belong to one group, and what they share.

All of it is arithmetic on whole columns, so that 752,803 rows take seconds.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hemodist.dataset.index import INDEX_SCHEMA, labels_of
from hemodist.dataset.labels import UNKNOWN
from hemodist.errors import ConfigError
from shards.building import groups
from shards.building.groups import I64
from shards.packing import record
from shards.packing.identity import KINDS


@dataclass(frozen=True)
class SharedImages:
    """What different samples share, for people. Duplicates are left out unless an attribute names them.

    Attributes:
        images: different images that more than one sample shows.
        samples: samples that show one of these images.
        conflicting: images whose samples have different labels.
        conflicting_duplicates: slices with a label that is 0 in one file and 1 in another; the used sample's label
            counts.
        shared_identifiers: SOP Instance UIDs that came with different images; all of these images are used.
    """

    images: int
    samples: int
    conflicting: int
    conflicting_duplicates: int = 0
    shared_identifiers: int = 0


@dataclass(frozen=True)
class Made:
    """An index, and what was found on the way.

    Attributes:
        index: of `INDEX_SCHEMA`.
        shared: what different samples share.
        identity: numbers of groups, joins and identifiers for the manifest, see `groups.facts`.
    """

    index: pa.Table
    shared: SharedImages
    identity: dict[str, Any]


def make_index(table: pa.Table, ignored: Collection[str] = ()) -> Made:
    """Add `group` and `duplicate` to the samples of all shards.

    Samples with the same SOP Instance UID and the same image are one slice. The sample with most known labels is used
    (the first of several), and the others are duplicates. Different images are different slices, whatever their UIDs
    say: careless de-identification gives one UID to many.

    A group joins, transitively, the samples that share a patient, a study, a series, an image, or a UID of few images.
    Spellings of an identifier count as one, and have the pseudonym of the first.

    Args:
        table: columns of `record.SCHEMA`, a row a sample, in shard order.
        ignored: which of patient, study and series join nothing; they become null.

    Raises:
        ConfigError: an identifier stands on most of what it should tell apart.
    """
    rows = len(table)
    found = {kind: groups.numbers(table.column(f"{kind}_number")) for kind in (*KINDS, "slice")}
    found |= {kind: np.full(rows, -1) for kind in ignored}
    image, labels = groups.numbers(table.column("pixel_digest")), labels_of(table)
    slices = _slices(found["slice"], image)
    duplicate = _duplicates(slices, labels)
    shared_identifiers, found["slice"] = groups.shared_identifiers(found["slice"], image)
    found["image"] = image
    group, joins = groups.join(found)
    wrong = groups.crowded(found, group, table.column("key"))
    if wrong is not None:
        raise ConfigError(wrong)
    columns = {name: table.column(name) for name in INDEX_SCHEMA.names if name not in record.MADE_LATER}
    respelled = 0
    for kind in KINDS:
        columns[kind], several = groups.one_spelling(columns[kind], found[kind])
        respelled += several
    columns["group"] = pa.array(group, pa.int32())
    columns["duplicate"] = pa.array(duplicate, pa.bool_())
    index = pa.table([columns[name] for name in INDEX_SCHEMA.names], names=INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
    used = ~duplicate
    showing = np.bincount(image[used], minlength=1)  # samples that show each image
    shared = used & (showing[image] > 1)
    variants = np.unique(np.column_stack([image[shared], labels[shared]]), axis=0)
    _, labellings = np.unique(variants[:, 0], return_counts=True)
    what = SharedImages(
        images=int(np.count_nonzero(showing > 1)),
        samples=int(np.count_nonzero(shared)),
        conflicting=int(np.count_nonzero(labellings > 1)),
        conflicting_duplicates=_conflicting(slices, labels),
        shared_identifiers=shared_identifiers,
    )
    return Made(index, what, groups.facts(found, group, joins, respelled))


def _slices(uid: I64, image: I64) -> I64:
    """A number for each different slice, int64 [rows]: UID and image. Without a UID a sample is a slice of its own."""
    named = uid * (image.max(initial=0) + 1) + image
    return np.where(uid < 0, -1 - np.arange(len(uid)), named)


def _duplicates(slices: I64, labels: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    """Which samples are not used because another sample of the same slice is, bool [rows]."""
    unknown = np.count_nonzero(labels == UNKNOWN, axis=1)
    order = np.lexsort((unknown, slices))  # stable, so that of equal ones the first stays first
    result = np.zeros(len(slices), np.bool_)
    result[order[1:]] = slices[order[1:]] == slices[order[:-1]]
    return result


def _conflicting(slices: I64, labels: npt.NDArray[np.int8]) -> int:
    """Number of slices with a label that is 0 in one sample and 1 in another."""
    _, number, times = np.unique(slices, return_inverse=True, return_counts=True)
    several = times[number] > 1
    found = np.zeros(len(times), np.bool_)
    for column in labels[several].T:
        no, yes = (np.bincount(number[several][column == value], minlength=len(times)) for value in (0, 1))
        found |= (no > 0) & (yes > 0)
    return int(np.count_nonzero(found))
