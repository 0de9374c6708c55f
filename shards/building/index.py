"""The index of a data set: which samples are duplicates, and which belong to one group.

All of it is arithmetic on whole columns, so that 752,803 rows take seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hemodist.dataset.index import INDEX_SCHEMA, labels_of
from hemodist.dataset.labels import UNKNOWN
from shards.packing import record

I64 = npt.NDArray[np.int64]

MAX_VERSIONS = 4
"""A SOP Instance UID with at most so many different images is one patient's: an original, and what was made from it."""


@dataclass(frozen=True)
class SharedImages:
    """What different samples share, for people. Duplicates are left out unless an attribute names them.

    Attributes:
        images: different images that more than one sample shows.
        samples: samples that show one of these images.
        patients_joined: patients who are in a group with another one.
        conflicting: images whose samples have different labels.
        conflicting_duplicates: slices with a label that is 0 in one file and 1 in another; the used sample's label
            counts.
        shared_identifiers: SOP Instance UIDs that came with different images; all of these images are used.
    """

    images: int
    samples: int
    patients_joined: int
    conflicting: int
    conflicting_duplicates: int = 0
    shared_identifiers: int = 0


def make_index(table: pa.Table) -> tuple[pa.Table, SharedImages]:
    """Add `group` and `duplicate` to the samples of all shards.

    Samples with the same SOP Instance UID and the same image are one slice. The sample with most known labels is used
    (the first of several), and the others are duplicates. Different images are different slices, whatever their UIDs
    say: careless de-identification gives one UID to many.

    A group is a patient together with every patient who shares an image with them, or a UID of few images. A sample
    without a patient counts as its study, else as its series, else as itself.

    Args:
        table: columns of `record.SCHEMA`, a row a sample, in shard order.

    Returns:
        The index, of `INDEX_SCHEMA`, and what different samples share.
    """
    rows = len(table)
    owner = _owners(table)
    image, uid, labels = _codes(table.column("pixel_digest")), _codes(table.column("uid")), labels_of(table)
    slices = _slices(uid, image)
    duplicate = _duplicates(slices, labels)
    shared_identifiers, linked = _versions(uid, image)
    group = _numbered(_components(owner, image, linked))
    columns = {name: table.column(name) for name in INDEX_SCHEMA.names if name not in record.MADE_LATER}
    columns["group"] = pa.array(group, pa.int32())
    columns["duplicate"] = pa.array(duplicate, pa.bool_())
    index = pa.table([columns[name] for name in INDEX_SCHEMA.names], names=INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
    if not rows:
        return index, SharedImages(0, 0, 0, 0)
    used = ~duplicate
    showing = np.bincount(image[used], minlength=int(image.max()) + 1)  # samples that show each image
    shared = used & (showing[image] > 1)
    pairs = np.unique(np.stack([group, owner]), axis=1)
    owners_in_group = np.bincount(pairs[0])
    variants = np.unique(np.column_stack([image[shared], labels[shared]]), axis=0)
    _, labellings = np.unique(variants[:, 0], return_counts=True)
    return index, SharedImages(
        images=int(np.count_nonzero(showing > 1)),
        samples=int(np.count_nonzero(shared)),
        patients_joined=int(owners_in_group[owners_in_group > 1].sum()),
        conflicting=int(np.count_nonzero(labellings > 1)),
        conflicting_duplicates=_conflicting(slices, labels),
        shared_identifiers=shared_identifiers,
    )


def _codes(column: pa.ChunkedArray) -> I64:
    """A number for each different value, int64 [rows]; nulls are -1."""
    encoded = column.combine_chunks().dictionary_encode()
    codes: I64 = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


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


def _versions(uid: I64, image: I64) -> tuple[int, I64]:
    """Different images of one UID: how many UIDs have several, and pairs of images, int64 [2, pairs], to be joined."""
    known = uid >= 0
    size = image.max(initial=0) + 1
    pairs = np.unique(uid[known] * size + image[known])
    uids, images = pairs // size, pairs % size
    of_uid = np.bincount(uids, minlength=1)
    # A few images of one UID are a slice that was made anew; one UID for a whole source says nothing of anybody.
    joined = (uids[1:] == uids[:-1]) & (of_uid[uids[1:]] <= MAX_VERSIONS)
    return int(np.count_nonzero(of_uid > 1)), np.stack([images[:-1][joined], images[1:][joined]])


def _owners(table: pa.Table) -> I64:
    """Who a sample belongs to, as a number: its patient, else its study, else its series, else itself."""
    owner = np.full(len(table), -1, np.int64)
    offset = 0
    for name in ("patient", "study", "series"):
        codes = _codes(table.column(name))
        free = (owner < 0) & (codes >= 0)
        owner[free] = codes[free] + offset
        offset += len(table)
    free = owner < 0
    owner[free] = np.arange(len(table))[free] + offset
    return _numbered(owner)


def _components(owner: I64, image: I64, linked: I64) -> I64:
    """Number of each sample's component in the graph that joins owners with the images that they show.

    Args:
        owner: number of each sample's owner.
        image: number of each sample's image.
        linked: int64 [2, pairs], images that are joined as well.
    """
    if not len(owner):
        return owner
    owners = int(owner.max()) + 1
    size = owners + int(image.max()) + 1
    ends = np.concatenate([owner, owners + linked[0]]), np.concatenate([owners + image, owners + linked[1]])
    edges = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(size, size))
    _, component = connected_components(edges, directed=False)
    result: I64 = component[owner].astype(np.int64)
    return result


def _numbered(values: Sequence[int] | I64) -> I64:
    """Dense numbers in the order of first appearance."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    result: I64 = rank[inverse]
    return result
