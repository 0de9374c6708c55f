"""An opened data set: the manifest and the index of finished shards, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hemodist.dataset.digest import sha256
from hemodist.dataset.index import labels_of, read_index
from hemodist.dataset.manifest import INDEX, DatasetError, Manifest, read_manifest
from hemodist.storage.store import Store, StoreError

MAX_NAMELESS = 0.01
"""Largest share of slices of nobody knows whom beside which a score still has an interval over patients."""


@dataclass(frozen=True)
class DataSet:
    """An opened data set: where it is, its manifest, and its index.

    Attributes:
        store: the data set's root.
        manifest: the content of `manifest.json`.
        index: a row a sample, of `INDEX_SCHEMA`, in shard order.
    """

    store: Store
    manifest: Manifest
    index: pa.Table

    @classmethod
    def open(cls, uri: str) -> DataSet:
        """Open a finished data set and check its index against the manifest.

        Raises:
            DatasetError: there is none, it is unfinished, or the index is damaged.
        """
        store = Store.open(uri)
        manifest = read_manifest(store)
        try:
            content = store.read(INDEX)
        except StoreError as error:
            raise DatasetError(f"{store.uri} has no readable {INDEX}: {error}") from error
        if sha256(content) != manifest.index_sha256:
            raise DatasetError(f"{store.uri}/{INDEX} does not match its digest; run `python -m shards verify {uri}`")
        if not manifest.samples:
            raise DatasetError(
                f"{store.uri} holds no sample, so it is no data set; `python -m shards show --rejected {uri}` says why"
            )
        dataset = cls(store, manifest, read_index(content, manifest.samples, f"{store.uri}/{INDEX}"))
        dataset._check_places()
        return dataset

    def _check_places(self) -> None:
        """Check that every sample lies in a shard: the digest does not tell who wrote index and manifest."""
        shard, offset, size = (self.column(name).astype(np.int64) for name in ("shard", "offset", "size"))
        lengths = np.array([info.bytes for info in self.manifest.shards] or [0], np.int64)
        known = (shard >= 0) & (shard < len(self.manifest.shards))
        # In this order, so that no sum can overflow.
        room = lengths[np.where(known, shard, 0)] - offset
        outside = ~(known & (offset >= 0) & (size > 0) & (size <= room))
        if outside.any():
            key = self.index.column("key")[int(outside.argmax())]
            raise DatasetError(
                f"{self.store.uri}/{INDEX} puts {int(outside.sum())} samples outside their shards, {key} the first; "
                f"run `python -m shards verify {self.store.uri}`"
            )

    def labels(self) -> npt.NDArray[np.int8]:
        """Labels, int8 [samples, 6], values 0, 1 and `UNKNOWN`."""
        return labels_of(self.index)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of the index without nulls, as an array of its own dtype [samples]."""
        array: npt.NDArray[Any] = self.index.column(name).to_numpy()
        return array

    def nameless(self, rows: npt.NDArray[np.int64]) -> int:
        """How many of these rows are of files that name no patient, study or series."""
        named = [self.index.column(name).is_valid().to_numpy() for name in ("patient", "study", "series")]
        return int(np.count_nonzero(~np.any(named, axis=0)[rows]))

    def knows_patients(self, rows: npt.NDArray[np.int64]) -> bool:
        """Whether it is known of whom these rows are, but for `MAX_NAMELESS` of them."""
        return self.nameless(rows) <= MAX_NAMELESS * len(rows)

    def resampled_groups(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """The group of each of these rows, for intervals; all 0, which gives none, where patients are not known."""
        group = self.column("group")[rows]
        return group if self.knows_patients(rows) else np.zeros_like(group)

    def nameless_note(self, rows: npt.NDArray[np.int64]) -> str | None:
        """What a reader has to know of rows of files that name nobody; None where there is none."""
        count = self.nameless(rows)
        if not count:
            return None
        claim = "" if self.knows_patients(rows) else ", and no interval over patients is given"
        return (
            f"{count:,} of {len(rows):,} slices are of files that name no patient, study or series: slices of one scan "
            f"may stand on both sides of the split, so that scores look too good{claim}."
        )
