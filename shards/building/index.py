"""From the records of all shards to the index, the rejections and, last of all, the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hemodist.dataset.digest import config_digest, sha256
from hemodist.dataset.index import INDEX_SCHEMA, REJECTED_SCHEMA, labels_of
from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.dataset.manifest import INDEX, MANIFEST, REJECTED, SCHEMA_VERSION, Manifest, ShardInfo, shard_name
from hemodist.storage.store import Store, StoreError
from shards.dicom.reasons import Reason
from shards.packing import record

I64 = npt.NDArray[np.int64]

MAX_VERSIONS = 4
"""Images of one SOP Instance UID that are taken for one patient's: an original, and what others have made of it."""


@dataclass(frozen=True)
class SharedImages:
    """Images that occur more than once, second copies of a slice left out.

    Attributes:
        images: different images that more than one sample shows.
        samples: samples that show one of them.
        patients_joined: patients who are in a group with another one.
        conflicting: images whose samples have different labels.
        conflicting_copies: slices whose copies are labelled 0 here and 1 there; what the used one says is kept.
        shared_identifiers: SOP Instance UIDs under which different images came; all of these are used.
    """

    images: int
    samples: int
    patients_joined: int
    conflicting: int
    conflicting_copies: int = 0
    shared_identifiers: int = 0


def finalise(
    output: Store, shards: int, build_digest: str, config: dict[str, Any], not_selected: Iterable[str]
) -> tuple[Manifest, SharedImages]:
    """Write `index.parquet`, `rejected.parquet` and `manifest.json`, in this order.

    Args:
        output: the data set; the records of all shards are there.
        shards: how many.
        build_digest: what their records must carry.
        config: for the manifest.
        not_selected: paths of the files that the selection left out.

    Raises:
        StoreError: a record is missing, damaged or of another build, or something cannot be written.
    """
    infos, samples, rejected = [], [], []
    for number in range(shards):
        info, build, table = record.read(output, number)
        if build != build_digest:
            raise StoreError(f"{output.uri}/{record.name(number)} is of another build; delete it and run again")
        infos.append(ShardInfo(shard_name(number), info.samples, info.bytes, info.sha256))
        good = pc.is_null(table.column("reason"))
        samples.append(table.filter(good).drop_columns([*record.SOURCE, "reason", "detail"]))
        rejected.append(table.filter(pc.invert(good)).select(REJECTED_SCHEMA.names))
    table = pa.concat_tables(samples).combine_chunks()
    index, shared = make_index(table)
    left_out = pa.Table.from_pylist(
        [{"path": path, "reason": Reason.NOT_SELECTED.value, "detail": ""} for path in not_selected], REJECTED_SCHEMA
    )
    refused = pa.concat_tables([*(part.cast(REJECTED_SCHEMA) for part in rejected), left_out]).sort_by("path")
    index_bytes, rejected_bytes = record.to_parquet(index), record.to_parquet(refused)
    output.write(INDEX, index_bytes)
    output.write(REJECTED, rejected_bytes)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        config=config,
        config_digest=config_digest(config),
        source_files=len(index) + len(refused),
        samples=len(index),
        duplicates=int(pc.sum(index.column("duplicate")).as_py() or 0),
        label_counts=label_counts(index),
        rejected=reason_counts(refused),
        shards=tuple(infos),
        index_sha256=sha256(index_bytes),
        rejected_sha256=sha256(rejected_bytes),
    )
    output.write(MANIFEST, manifest.to_bytes())
    return manifest, shared


def make_index(table: pa.Table) -> tuple[pa.Table, SharedImages]:
    """Add `group` and `duplicate` to the samples of all shards.

    Samples with the same SOP Instance UID and the same image are copies of one slice: the one with most known labels is
    used, the first of several, and the others are duplicates. Different images are different slices, whatever their
    UIDs say (careless de-identification gives one to many). A group is a patient with every patient who shares an
    image, or a UID of few images; a sample without a patient counts as its study, series or itself.

    Args:
        table: columns of `record.SCHEMA`, a row a sample, in shard order.

    Returns:
        The index, of `INDEX_SCHEMA`, and what is shared.
    """
    rows = len(table)
    owner = _owners(table)
    image, uid, labels = _codes(table.column("pixel_digest")), _codes(table.column("uid")), labels_of(table)
    slices = _slices(uid, image)
    duplicate = _copies(slices, labels)
    versions = _versions(uid, image)
    group = _numbered(_components(owner, image, versions.linked))
    columns = {name: table.column(name) for name in INDEX_SCHEMA.names if name not in record.MADE_LATER}
    columns["group"] = pa.array(group, pa.int32())
    columns["duplicate"] = pa.array(duplicate, pa.bool_())
    index = pa.table([columns[name] for name in INDEX_SCHEMA.names], names=INDEX_SCHEMA.names).cast(INDEX_SCHEMA)
    if not rows:
        return index, SharedImages(0, 0, 0, 0)
    used = ~duplicate
    copies = np.bincount(image[used], minlength=int(image.max()) + 1)
    shared = used & (copies[image] > 1)
    pairs = np.unique(np.stack([group, owner]), axis=1)
    owners_in_group = np.bincount(pairs[0])
    variants = np.unique(np.column_stack([image[shared], labels[shared]]), axis=0)
    _, labellings = np.unique(variants[:, 0], return_counts=True)
    return index, SharedImages(
        images=int(np.count_nonzero(copies > 1)),
        samples=int(np.count_nonzero(shared)),
        patients_joined=int(owners_in_group[owners_in_group > 1].sum()),
        conflicting=int(np.count_nonzero(labellings > 1)),
        conflicting_copies=_conflicting(slices, labels),
        shared_identifiers=versions.identifiers,
    )


def label_counts(index: pa.Table) -> dict[str, dict[str, int]]:
    """For each label the numbers of positive, negative and unknown samples."""
    labels = labels_of(index)
    names = {"positive": 1, "negative": 0, "unknown": -1}
    return {
        label: {name: int(np.count_nonzero(labels[:, column] == value)) for name, value in names.items()}
        for column, label in enumerate(LABELS)
    }


def reason_counts(rejected: pa.Table) -> dict[str, int]:
    """Number of rejected files by reason, the reasons sorted."""
    counted = pc.value_counts(rejected.column("reason")).to_pylist()
    return {entry["values"]: entry["counts"] for entry in sorted(counted, key=lambda entry: entry["values"])}


def _codes(column: pa.ChunkedArray) -> I64:
    """A number for each different value, int64 [rows]; nulls are -1."""
    encoded = column.combine_chunks().dictionary_encode()
    codes: I64 = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def _slices(uid: I64, image: I64) -> I64:
    """A number for each different slice, int64 [rows]: UID and image. Without a UID a sample is a slice of its own."""
    named = uid * (image.max(initial=0) + 1) + image
    return np.where(uid < 0, -1 - np.arange(len(uid)), named)


def _copies(slices: I64, labels: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    """Which samples are not used since another one of the same slice is, bool [rows]."""
    unknown = np.count_nonzero(labels == UNKNOWN, axis=1)
    order = np.lexsort((unknown, slices))  # stable, so that of equal ones the first stays first
    result = np.zeros(len(slices), np.bool_)
    result[order[1:]] = slices[order[1:]] == slices[order[:-1]]
    return result


def _conflicting(slices: I64, labels: npt.NDArray[np.int8]) -> int:
    """Slices of which one copy has a label 0 and another one 1."""
    _, number, times = np.unique(slices, return_inverse=True, return_counts=True)
    copied = times[number] > 1
    found = np.zeros(len(times), np.bool_)
    for column in labels[copied].T:
        no, yes = (np.bincount(number[copied][column == value], minlength=len(times)) for value in (0, 1))
        found |= (no > 0) & (yes > 0)
    return int(np.count_nonzero(found))


@dataclass(frozen=True)
class _Versions:
    """Different images of one UID: how many UIDs have several, and pairs of images, int64 [2, pairs], to be joined."""

    identifiers: int
    linked: I64


def _versions(uid: I64, image: I64) -> _Versions:
    known = uid >= 0
    size = image.max(initial=0) + 1
    pairs = np.unique(uid[known] * size + image[known])
    uids, images = pairs // size, pairs % size
    of_uid = np.bincount(uids, minlength=1)
    # One UID a slice, drawn with other settings, is the same patient; one for a whole source says nothing of anybody.
    joined = (uids[1:] == uids[:-1]) & (of_uid[uids[1:]] <= MAX_VERSIONS)
    return _Versions(int(np.count_nonzero(of_uid > 1)), np.stack([images[:-1][joined], images[1:][joined]]))


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
