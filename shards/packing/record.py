"""A shard's record: what became of each of its source files.

A record is written after its shard, so a shard with a record is complete. The index of the data set is made of all
records. A record is a parquet file with the SHA-256 of its bytes at its end, since parquet notices few damaged bytes.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hemodist.dataset.digest import sha256
from hemodist.dataset.index import INDEX_SCHEMA
from hemodist.dataset.labels import LABELS
from hemodist.dataset.manifest import shard_name
from hemodist.storage.store import Store, StoreError, shown
from shards.packing import identity
from shards.packing.source_files import File
from shards.packing.tar import index_name

FOLDER = "records"
"""Below the data set, while it is unfinished."""

MADE_LATER = frozenset({"group", "duplicate"})
"""Columns of the index that can be filled only when all records are there."""

_DIGEST_BYTES = hashlib.sha256().digest_size

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # of the source file
        pa.field("source_size", pa.int64(), nullable=False),  # bytes
        pa.field("source_changed", pa.int64(), nullable=False),  # ns since 1970
        pa.field("reason", pa.string()),  # null for a sample
        pa.field("detail", pa.string()),
        *[field.with_nullable(True) for field in INDEX_SCHEMA if field.name not in MADE_LATER],
        # Of patient, study, series and SOP Instance UID: `identity.number`, by which groups are joined.
        *[pa.field(f"{kind}_number", pa.int64()) for kind in (*identity.KINDS, "slice")],
    ]
)
"""A row a source file, in the task's order."""


SOURCE = ("path", "source_size", "source_changed")
"""Columns that say which file a row is of."""


@dataclass(frozen=True)
class ShardRecord:
    """What a record says about its shard as a whole.

    Attributes:
        number: number of the shard.
        samples: samples in the tar.
        bytes: size of the tar.
        sha256: SHA-256 of the tar, in hexadecimal digits.
        index_sha256: SHA-256 of the tar's DALI index.
    """

    number: int
    samples: int
    bytes: int
    sha256: str
    index_sha256: str


def source_columns(file: File) -> dict[str, Any]:
    """The columns `SOURCE` of a file's row."""
    return {"path": shown(file.path), "source_size": file.size, "source_changed": file.changed}


def name(number: int) -> str:
    """Name of a record below the data set."""
    return f"{FOLDER}/{number:06d}.record"


def save(output: Store, record: ShardRecord, build_digest: str, table: pa.Table) -> None:
    """Write a record.

    Raises:
        StoreError: it cannot be written.
    """
    meta = {key: str(value) for key, value in asdict(record).items()} | {"build": build_digest}
    content = to_parquet(table.replace_schema_metadata(meta))
    output.write(name(record.number), content + hashlib.sha256(content).digest())


def read(output: Store, number: int) -> tuple[ShardRecord, str, pa.Table]:
    """A record, the digest of the build that wrote it, and its table.

    Raises:
        StoreError: it is missing or damaged.
    """
    whole = output.read(name(number))
    content, digest = whole[:-_DIGEST_BYTES], whole[-_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise StoreError(f"{output.uri}/{name(number)} is damaged; run again, it is made anew")
    try:
        table = pq.read_table(io.BytesIO(content))
        meta = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
        number, samples, size = (int(meta[key]) for key in ("number", "samples", "bytes"))
        record = ShardRecord(number, samples, size, meta["sha256"], meta["index_sha256"])
        table = table.replace_schema_metadata(None).cast(SCHEMA)
        _check_rows(table, record)
        return record, meta["build"], table
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:  # whole, but of other code
        raise StoreError(
            f"{output.uri}/{name(number)} cannot be read ({error!r}); run again, it is made anew"
        ) from error


def _check_rows(table: pa.Table, record: ShardRecord) -> None:
    """Raise ValueError where a row is neither a sample with all that a sample has, nor a rejected file."""
    good = table.filter(pc.is_null(table.column("reason")))
    if len(good) != record.samples:
        raise ValueError(f"{len(good)} rows of samples, {record.samples} in the shard")
    if not set(pc.unique(good.column("shard")).to_pylist()) <= {record.number, None}:
        raise ValueError(f"samples of other shards than {record.number}")
    if table.filter(pc.is_valid(table.column("reason"))).column("detail").null_count:
        raise ValueError("a rejected file without a detail")
    for field in INDEX_SCHEMA:
        if not field.nullable and field.name not in MADE_LATER and good.column(field.name).null_count:
            raise ValueError(f"samples without {field.name}")
    for label in LABELS:
        if not set(pc.unique(good.column(label)).to_pylist()) <= {0, 1, None}:
            raise ValueError(f"values of {label} other than 0 and 1")


def load(output: Store, number: int, build_digest: str, files: Sequence[File]) -> ShardRecord | None:
    """The record of a shard; None where there is none of exactly these files and this build."""
    if output.size(name(number)) is None:
        return None
    try:
        record, build, table = read(output, number)
    except StoreError:  # A damaged record is made again, like a missing one.
        return None
    same = table.select(SOURCE).to_pylist() == [source_columns(file) for file in files]
    return record if same and build == build_digest and record.number == number else None


def holds(output: Store, record: ShardRecord) -> bool:
    """Whether the tar and its DALI index are there, byte for byte as the record says."""
    tar = shard_name(record.number)
    if output.size(tar) != record.bytes:
        return False
    index = index_name(tar)
    if output.size(index) is None or sha256(output.read(index)) != record.index_sha256:
        return False
    return sha256(output.read(tar)) == record.sha256


def to_parquet(table: pa.Table) -> bytes:
    """The table as parquet, with every setting fixed, so that equal tables give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=3, row_group_size=2**17, version="2.6")
    return sink.getvalue()
