"""Checks a finished data set: whether every digest, offset, checksum, image header, label and count is right."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from hemodist.dataset.digest import config_digest, sha256
from hemodist.dataset.index import INDEX_SCHEMA, REJECTED_SCHEMA, as_index
from hemodist.dataset.labels import LABELS
from hemodist.dataset.manifest import (
    INDEX,
    MANIFEST,
    REJECTED,
    SHARD_FOLDER,
    DatasetError,
    Manifest,
    ShardInfo,
    read_manifest,
    shard_name,
)
from hemodist.storage.local_files import PARTIAL_SUFFIX
from hemodist.storage.store import Store, StoreError
from shards.building import series, unfinished
from shards.building.finalise import label_counts, reason_counts
from shards.dicom.reasons import Reason
from shards.packing import record
from shards.packing.identity import KINDS
from shards.packing.tar import Member, TarError, index_file, index_name, read_members
from shards.picture.encode import EXTENSIONS

MAX_PROBLEMS = 1000
"""Problems that are listed; a data set with more is not worth a longer list."""

_FOREIGN = "does not belong to the finished data set; run the sharder again, it clears up"
_FORMATS = {"jpeg": "JPEG", "png": "PNG"}
_NO_SUBSAMPLING = ((1, 1), (1, 1), (1, 1))


@dataclass
class Report:
    """What was checked and what is wrong.

    Attributes:
        shards: shards checked.
        samples: rows of the index checked.
        bytes: bytes of the tars that were read.
        problems: a line for each problem; empty for a sound data set.
        remarks: a line for each oddity of a series, see `shards.building.series`; what is stored is sound all the same.
    """

    shards: int = 0
    samples: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """Note a problem."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)


def verify(store: Store, *, quick: bool = False, tell: Callable[[int, int], None] | None = None) -> Report:
    """Check a data set.

    Args:
        store: the root of the data set.
        quick: check sizes, index and counts only; no shard is read.
        tell: called with the number of shards that are done, and of all.

    Raises:
        DatasetError: there is no manifest, so there is nothing to check against.
        StoreError: the store does not answer.
    """
    report = Report()
    try:
        manifest = read_manifest(store)
    except DatasetError as error:
        if store.size(MANIFEST) is None:
            raise
        report.add(str(error))  # Without it nothing says what should be there.
        return report
    known = config_digest(manifest.config) == manifest.config_digest
    if not known:
        report.add(f"{MANIFEST}: the configuration does not match config_digest; no image was held against it")
    index = _table(store, INDEX, manifest.index_sha256, INDEX_SCHEMA, report)
    rejected = _table(store, REJECTED, manifest.rejected_sha256, REJECTED_SCHEMA, report)
    if rejected is not None:
        _check_rejected(rejected, manifest, report)
    if index is not None:
        _check_index(index, manifest, report)
        _check_series(index, manifest, report)
    _check_files(store, manifest, report)
    for number, info in enumerate(manifest.shards):
        report.shards += 1
        if store.size(info.name) != info.bytes:
            report.add(f"{info.name}: {_bytes(store.size(info.name))}, the manifest says {info.bytes} bytes")
        elif not quick:
            rows = None if index is None or not known else index.filter(pc.equal(index.column("shard"), number))
            _check_shard(store, info, rows, manifest, report)
        if tell is not None:
            tell(number + 1, len(manifest.shards))
    return report


def _table(store: Store, name: str, digest: str, schema: pa.Schema, report: Report) -> pa.Table | None:
    try:
        content = store.read(name)
    except StoreError as error:
        report.add(str(error))
        return None
    if sha256(content) != digest:
        report.add(f"{name}: does not match its SHA-256 in the manifest")
    try:
        table = pq.read_table(io.BytesIO(content))
        return as_index(table) if schema is INDEX_SCHEMA else table.cast(schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        report.add(f"{name}: cannot be read as a table of its schema ({type(error).__name__})")
        return None


def _check_rejected(rejected: pa.Table, manifest: Manifest, report: Report) -> None:
    counts = reason_counts(rejected)
    if counts != manifest.rejected:
        report.add(f"{REJECTED}: reasons {counts}, the manifest says {manifest.rejected}")
    if unknown := sorted(set(counts) - {reason.value for reason in Reason}):
        report.add(f"{REJECTED}: unknown reasons {', '.join(unknown)}")
    if manifest.samples + len(rejected) != manifest.source_files:
        report.add(
            f"{MANIFEST}: {manifest.samples} samples and {len(rejected)} rejected are not {manifest.source_files} files"
        )


def _check_index(index: pa.Table, manifest: Manifest, report: Report) -> None:
    report.samples = len(index)
    if len(index) != manifest.samples:
        report.add(f"{INDEX}: {len(index)} rows, the manifest says {manifest.samples} samples")
    if (counts := label_counts(index)) != manifest.label_counts:
        report.add(f"{INDEX}: label counts {counts}, the manifest says {manifest.label_counts}")
    duplicates = int(pc.sum(index.column("duplicate")).as_py() or 0)
    if duplicates != manifest.duplicates:
        report.add(f"{INDEX}: {duplicates} duplicates, the manifest says {manifest.duplicates}")
    for label in LABELS:
        if set(pc.unique(index.column(label)).to_pylist()) - {0, 1, None}:
            report.add(f"{INDEX}: {label} holds values other than 0, 1 and null")
    if len(pc.unique(index.column("key"))) != len(index):
        report.add(f"{INDEX}: a key occurs more than once")
    shards = index.column("shard").to_numpy()
    if len(shards) and (np.diff(shards) < 0).any():
        report.add(f"{INDEX}: rows are not in shard order")
    samples = np.bincount(shards, minlength=len(manifest.shards)) if len(shards) else np.zeros(len(manifest.shards))
    for number, info in enumerate(manifest.shards):
        if info.name != shard_name(number):
            report.add(f"{MANIFEST}: shard {number} is named {info.name}")
        if samples[number] != info.samples:
            report.add(f"{INDEX}: {int(samples[number])} rows of {info.name}, the manifest says {info.samples}")
    if len(samples) > len(manifest.shards):
        report.add(f"{INDEX}: rows of shard {len(samples) - 1}, there are {len(manifest.shards)}")
    groups = len(pc.unique(index.column("group")))
    if manifest.identity is not None and groups != manifest.identity["groups"]:
        report.add(f"{INDEX}: {groups} groups, the manifest says {manifest.identity['groups']}")
    for name in (*KINDS, "pixel_digest"):
        known = index.filter(pc.is_valid(index.column(name)))
        pairs = known.group_by([name, "group"]).aggregate([])
        split = len(pairs) - len(pc.unique(known.column(name)))
        if split:
            report.add(f"{INDEX}: a {name.replace('_', ' ')} is in more than one group ({split} too many)")


def _check_series(index: pa.Table, manifest: Manifest, report: Report) -> None:
    found = series.all_series(index, whole=manifest.config.get("selection") == "all")
    if manifest.series is not None and series.counts(found) != manifest.series:
        report.add(f"{INDEX}: series {series.counts(found)}, the manifest says {manifest.series}")
    for fault in series.FAULTS:
        report.remarks += [
            f"series {one.name or 'unnamed'}: {one.faults[fault]}" for one in found if fault in one.faults
        ]
    del report.remarks[MAX_PROBLEMS:]


def _check_files(store: Store, manifest: Manifest, report: Report) -> None:
    """Every file of the data set is there, and nothing else."""
    tars = {info.name for info in manifest.shards}
    wanted = {MANIFEST, INDEX, REJECTED} | tars | {index_name(name) for name in tars}
    found = {name for name, _ in store.list()}
    for name in sorted(index_name(tar) for tar in tars if index_name(tar) not in found):
        report.add(f"{name}: missing")
    for name in sorted(found - wanted):
        of_a_build = name in (unfinished.BUILD, unfinished.KEY_FILE)
        if of_a_build or name.startswith((f"{SHARD_FOLDER}/", f"{record.FOLDER}/")):
            report.add(f"{name}: {_FOREIGN}")
    if store.is_local:
        root = store.local()
        for folder in (root, root / SHARD_FOLDER, root / record.FOLDER):
            for path in sorted(folder.glob(f"*{PARTIAL_SUFFIX}")):
                report.add(f"{path.relative_to(root).as_posix()}: {_FOREIGN}")


def _check_shard(store: Store, info: ShardInfo, rows: pa.Table | None, manifest: Manifest, report: Report) -> None:
    try:
        content = store.read(info.name)
        listed = store.read(index_name(info.name))
    except StoreError as error:
        report.add(str(error))
        return
    report.bytes += len(content)
    if sha256(content) != info.sha256:
        report.add(f"{info.name}: does not match its SHA-256 in the manifest")
    members: list[Member] = []
    whole = True
    try:
        members = list(read_members(content))
    except TarError as error:
        report.add(f"{info.name}: {error}")
        whole = False
    if whole and listed != index_file(members):
        report.add(f"{index_name(info.name)}: does not list what is in the tar")
    if rows is None:
        return
    extension = EXTENSIONS[manifest.config["encoding"]]
    by_webdataset = _read_by_webdataset(content, extension) if whole else {}
    by_name = {member.name: member for member in members}
    # Of several spellings the index has the pseudonym of the first, and none of an identifier that is ignored.
    respelled = bool((manifest.identity or {}).get("respelled"))
    named = [] if respelled else sorted(set(KINDS) - set(manifest.config.get("ignored_ids", ())))
    for row in rows.to_pylist():
        where = f"{info.name} {row['key']}"
        image = by_name.pop(f"{row['key']}.{extension}", None)
        described = by_name.pop(f"{row['key']}.json", None)
        encoded = content[row["offset"] : row["offset"] + row["size"]]
        if zlib.crc32(encoded) != row["crc32"]:
            report.add(f"{where}: the image does not match its crc32")
        elif problem := _image_problem(encoded, manifest.config):
            report.add(f"{where}: {problem}")
        if whole and (image is None or (image.offset, image.size) != (row["offset"], row["size"])):
            report.add(f"{where}: the index gives byte {row['offset']} and {row['size']} bytes, the tar does not")
        if whole and by_webdataset.get(row["key"]) != encoded:
            report.add(f"{where}: webdataset reads another image, or none")
        if described is None:
            report.add(f"{where}: no JSON in the tar")
        elif problem := _json_problem(content[described.offset : described.offset + described.size], row, named):
            report.add(f"{where}: {problem}")
    for name in by_name:
        report.add(f"{info.name} {name}: in the tar, but not in the index")


def _read_by_webdataset(content: bytes, extension: str) -> dict[str, bytes]:
    """Images by key as other people's programs read them."""
    from webdataset import tariterators

    members = tariterators.tar_file_expander([{"url": "", "stream": io.BytesIO(content)}])
    return {sample["__key__"]: sample.get(extension) for sample in tariterators.group_by_keys(members)}


def _image_problem(encoded: bytes, config: dict[str, Any]) -> str | None:
    """What is wrong with an image's header, by the data set's configuration."""
    size, mode = (config["size"], config["size"]), "L" if len(config["windows"]) == 1 else "RGB"
    try:
        with Image.open(io.BytesIO(encoded)) as picture:
            found = (picture.format, picture.size, picture.mode)
            sampling = tuple((layer[1], layer[2]) for layer in getattr(picture, "layer", ()))
    except Exception as error:
        return f"the image's header cannot be read ({type(error).__name__})"
    if found != (_FORMATS[config["encoding"]], size, mode):
        return f"the image is {found}, not {(_FORMATS[config['encoding']], size, mode)}"
    if found[0] == "JPEG" and mode == "RGB" and sampling != _NO_SUBSAMPLING:
        return f"the image's chroma is subsampled: {sampling}"
    return None


def _json_problem(content: bytes, row: dict[str, Any], named: Iterable[str]) -> str | None:
    """Where a sample's JSON differs from its row of the index; `named` are the identifiers that must agree."""
    try:
        described = json.loads(content)
        if described["key"] != row["key"]:
            return f"the JSON is of {described['key']}"
        wanted: dict[str, Any] = {label: row[label] for label in LABELS}
        if described["labels"] != wanted:
            return f"labels in the JSON {described['labels']}, in the index {wanted}"
        for name in named:
            if described[name] != row[name]:
                return f"{name} differs between JSON and index"
    except (ValueError, KeyError, TypeError) as error:
        return f"the JSON is damaged ({type(error).__name__})"
    return None


def _bytes(size: int | None) -> str:
    return "missing" if size is None else f"{size} bytes"
