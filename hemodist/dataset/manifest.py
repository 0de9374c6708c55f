"""What a finished data set consists of: `manifest.json`, `index.parquet`, `rejected.parquet` and `shards/`.

This module is the contract between the sharder, which writes a data set, and the library, which reads it. The shards
store pixels, the index knows everything about them. A data set without `manifest.json` is unfinished.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hemodist.errors import UserError
from hemodist.storage.store import Store, StoreError

LABELS = ("any", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
"""The six labels of RSNA 2019, in the order of every array and table here."""

UNKNOWN = -1
"""An unknown label in int8 arrays; null in parquet, `null` in JSON. Never zero."""

SCHEMA_VERSION = 1
"""Of `manifest.json` and the parquet files. Raised when a reader of the old form would misread the new one."""

MANIFEST = "manifest.json"
INDEX = "index.parquet"
REJECTED = "rejected.parquet"
SHARD_FOLDER = "shards"

INDEX_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # the sample's name in its tar
        pa.field("shard", pa.int32(), nullable=False),  # number of the tar
        pa.field("offset", pa.int64(), nullable=False),  # of the image's first byte in the tar
        pa.field("size", pa.int32(), nullable=False),  # of the encoded image, in bytes
        pa.field("crc32", pa.uint32(), nullable=False),  # of the encoded image (zlib)
        *[pa.field(label, pa.int8()) for label in LABELS],  # 0, 1 or null
        pa.field("patient", pa.string()),  # keyed pseudonyms; null where the file has none
        pa.field("study", pa.string()),
        pa.field("series", pa.string()),
        pa.field("position", pa.float32()),  # mm along the slice normal; null where unknown
        pa.field("group", pa.int32(), nullable=False),  # what no split divides
        pa.field("brain_fraction", pa.float32(), nullable=False),  # share of pixels in 0 to 80 HU
        pa.field("pixel_digest", pa.binary(16), nullable=False),  # of the HU image before cleaning
        pa.field("duplicate", pa.bool_(), nullable=False),  # a second copy of a slice: stored, never used
    ]
)
"""A row a sample, in shard order."""

REJECTED_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # of the source file, relative to the source
        pa.field("reason", pa.string(), nullable=False),  # a code of `shards.dicom.read.Reason`
        pa.field("detail", pa.string(), nullable=False),  # the numbers
    ]
)
"""A row a source file that could not be used, sorted by path."""


class DatasetError(UserError):
    """A data set is missing, unfinished, damaged or of another version; the text says what helps."""


@dataclass(frozen=True)
class ShardInfo:
    """One tar: its name below the data set, samples, bytes and SHA-256 (hexadecimal)."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        schema_version: `SCHEMA_VERSION` of the code that wrote it.
        config: the sharder's configuration as JSON values (`size`, `windows`, `encoding` among them).
        config_digest: SHA-256 of the canonical JSON of `config`.
        source_files: files found below the source; `samples` + the sum of `rejected` is equal to it.
        samples: rows of the index.
        duplicates: rows of the index that are second copies of a slice.
        label_counts: for each label the numbers of `positive`, `negative` and `unknown` samples.
        rejected: number of rejected files by reason.
        shards: the tars, in order.
        index_sha256: SHA-256 of `index.parquet`.
        rejected_sha256: SHA-256 of `rejected.parquet`.
    """

    schema_version: int
    config: dict[str, Any]
    config_digest: str
    source_files: int
    samples: int
    duplicates: int
    label_counts: dict[str, dict[str, int]]
    rejected: dict[str, int]
    shards: tuple[ShardInfo, ...]
    index_sha256: str
    rejected_sha256: str

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, two spaces, one newline at the end."""
        return (json.dumps(dataclasses.asdict(self), sort_keys=True, indent=2) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Manifest:
        """Read what `to_bytes` wrote.

        Raises:
            DatasetError: it is not a manifest, or of another schema version.
        """
        try:
            fields = json.loads(content)
            version = fields["schema_version"]
            if version != SCHEMA_VERSION:
                raise DatasetError(
                    f"{where}: schema version {version}, this hemodist reads {SCHEMA_VERSION}; "
                    "shard again, or use the version that wrote it"
                )
            fields["shards"] = tuple(ShardInfo(**shard) for shard in fields["shards"])
            for number, shard in enumerate(fields["shards"]):
                if shard.name != shard_name(number):  # a name from elsewhere must not lead out of a folder
                    raise DatasetError(f"{where} names shard {number} {shard.name!r}, not {shard_name(number)!r}")
            return cls(**fields)
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{where} is not a manifest of hemodist ({error!r}); shard again") from error

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest's bytes: the name of exactly this data set."""
        return sha256(self.to_bytes())


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
        dataset = cls(store, manifest, pq.read_table(io.BytesIO(content)).cast(INDEX_SCHEMA))
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


def read_manifest(store: Store) -> Manifest:
    """The manifest of the data set at `store`.

    Raises:
        DatasetError: there is none, or it cannot be read.
    """
    where = f"{store.uri}/{MANIFEST}"
    try:
        if store.size(MANIFEST) is None:
            raise DatasetError(
                f"{where} does not exist: no data set, or an unfinished one; "
                "run `python jobs/shard.py --source DICOM --output DATASET` until it ends with exit code 0"
            )
        return Manifest.from_bytes(store.read(MANIFEST), where)
    except StoreError as error:
        raise DatasetError(str(error)) from error


def labels_of(table: pa.Table) -> npt.NDArray[np.int8]:
    """The label columns of a table, int8 [rows, 6]; null becomes `UNKNOWN`."""
    columns = [table.column(label).fill_null(UNKNOWN).to_numpy() for label in LABELS]
    return np.stack(columns, axis=1).astype(np.int8)


def shard_name(number: int) -> str:
    """Name of a tar below the data set.

    >>> shard_name(7)
    'shards/000007.tar'
    """
    return f"{SHARD_FOLDER}/{number:06d}.tar"


def sha256(content: bytes | memoryview) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def config_digest(config: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a configuration."""
    return sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
