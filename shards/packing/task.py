"""One task: some source files in, one tar with its DALI index and its record out. `run_task` is what a worker runs."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hemodist.dataset.digest import sha256
from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.dataset.manifest import shard_name
from hemodist.errors import UserError
from hemodist.storage import retries
from hemodist.storage.store import Store, StoreError, shown
from shards.dicom.read import Slice, read_slice
from shards.dicom.reasons import Reason, Rejected
from shards.packing import identity, record, versions
from shards.packing.source_files import NO_FILE, File, KeyStyle, key_of
from shards.packing.tar import TarWriter, index_file, index_name
from shards.picture import geometry
from shards.picture.encode import EXTENSIONS, RenderConfig, encode, pixel_digest, render, with_square_pixels

_to_json = json.JSONEncoder(sort_keys=True, allow_nan=False).encode

ARCHIVE_ENDINGS = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar", ".zst")
"""Of files that are too large to be looked at."""

MAX_FILE_BYTES = 256 * 2**20
"""A larger source file is rejected unread: 500 times an uncompressed 512 x 512 slice."""


@dataclass(frozen=True)
class PackConfig(RenderConfig):
    """What decides the bytes of a sample.

    Attributes:
        min_brain_fraction: reject slices with a smaller share of pixels in 0 to 80 HU.
        key_style: what a sample's key is made of.
    """

    min_brain_fraction: float
    key_style: KeyStyle


@dataclass(frozen=True)
class Task:
    """The files of one shard, with all that a worker needs.

    Attributes:
        number: number of the shard.
        source: path or URI of the source.
        output: path or URI of the data set.
        files: the source files, in the order in which they go into the tar.
        labels: labels of the files, int8 [files, 6] as bytes.
        config: what decides the bytes of a sample.
        build_digest: digest of the whole build; records of another build are made again.
        pseudonym_key: secret key of the pseudonyms.
        versions: versions of the driver's packages and code, which the worker must have too; empty for no check.
    """

    number: int
    source: str
    output: str
    files: tuple[File, ...]
    labels: bytes
    config: PackConfig
    build_digest: str
    pseudonym_key: bytes
    versions: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:  # The key must not reach a log.
        return f"Task({self.number}, {len(self.files)} files)"


@dataclass(frozen=True)
class TaskResult:
    """What a task did, for the progress bar.

    Attributes:
        number: number of the shard.
        samples: samples in the tar.
        rejected: files that are no sample.
        bytes: size of the tar.
        resumed: whether an earlier run had written the shard.
    """

    number: int
    samples: int
    rejected: int
    bytes: int
    resumed: bool


@dataclass(frozen=True)
class Sample:
    """One slice, ready for the tar.

    Attributes:
        image: the encoded picture.
        json: of the sample, for the tar.
        row: of the record.
    """

    image: bytes
    json: bytes
    row: dict[str, Any]


def run_task(task: Task) -> TaskResult:
    """Write the tar, its DALI index and, last, its record; nothing is written where all three are there and whole.

    Raises:
        StoreError: the source cannot be read, or the output not written, after several tries.
        UserError: this node has other versions than the driver.
    """
    if task.versions:
        versions.check(task.versions)
    output = Store.open(task.output)
    known = record.load(output, task.number, task.build_digest, task.files)
    if known is not None and record.holds(output, known):
        return TaskResult(task.number, known.samples, len(task.files) - known.samples, known.bytes, resumed=True)
    source = Store.open(task.source)
    labels = np.frombuffer(task.labels, np.int8).reshape(len(task.files), len(LABELS))
    rows: list[dict[str, Any]] = []
    tar_name = shard_name(task.number)
    tar = TarWriter()
    for file, label in zip(task.files, labels, strict=True):
        made = read_and_make(source, file, label, task)
        if isinstance(made, Rejected):
            row: dict[str, Any] = {"reason": made.reason.value, "detail": made.detail}
        else:
            image = tar.add(f"{made.row['key']}.{EXTENSIONS[task.config.encoding]}", made.image)
            tar.add(f"{made.row['key']}.json", made.json)
            row = made.row | {"shard": task.number, "offset": image.offset, "size": image.size}
        rows.append(row | record.source_columns(file))
    whole, digest = tar.finish()
    index = index_file(tar.members)
    output.write(tar_name, whole)
    output.write(index_name(tar_name), index)
    done = record.ShardRecord(task.number, len(tar.members) // 2, len(whole), digest, sha256(index))
    record.save(output, done, task.build_digest, pa.Table.from_pylist(rows, record.SCHEMA))
    return TaskResult(task.number, done.samples, len(task.files) - done.samples, done.bytes, resumed=False)


def read_and_make(source: Store, file: File, labels: npt.NDArray[np.int8], task: Task) -> Sample | Rejected:
    """Read a source file and make a sample of it.

    Raises:
        StoreError: as `read_source`.
    """
    # On its own, so that a file's bytes are free before the next one is read, into the same memory.
    content = read_source(source, file)
    return content if isinstance(content, Rejected) else make_sample(content, file.path, labels, task)


def read_source(source: Store, file: File) -> bytes | Rejected:
    """The bytes of a source file. A fault of the file becomes a `Rejected`; a fault of the store is raised.

    Raises:
        StoreError: the file cannot be read, or its size is not the one that was listed.
    """
    if file.size == NO_FILE:
        return Rejected(Reason.NOT_A_FILE, "no bytes")
    if file.size > MAX_FILE_BYTES and file.path.lower().endswith(ARCHIVE_ENDINGS):
        return Rejected(Reason.PACKED, f"by its name an archive, of {file.size} bytes; unpack it")
    if file.size > MAX_FILE_BYTES:
        return Rejected(Reason.ABSURD_SIZE, f"a file of {file.size} bytes, at most {MAX_FILE_BYTES} are read")
    for wait in (*retries.WAITS, None):
        try:
            content = source.read(file.path)
        except StoreError as error:
            if isinstance(error.__cause__, PermissionError) and source.is_local:
                return Rejected(Reason.NO_ACCESS, f"{file.size} bytes")
            raise
        if len(content) == file.size:
            return content
        if wait is not None:  # Network folders may show a size of some seconds ago.
            time.sleep(wait)
    raise StoreError(
        f"{source.uri}/{shown(file.path)} held {file.size} bytes when listed and gives {len(content)} now; "
        "let the source rest while it is sharded, then run again"
    )


def make_sample(content: bytes, path: str, labels: npt.NDArray[np.int8], task: Task) -> Sample | Rejected:
    """Make a sample of a file's bytes.

    Args:
        content: bytes of the file.
        path: the file's path below the source.
        labels: int8 [6], 0, 1 or `UNKNOWN`.
        task: gives the configuration and the pseudonym key.

    Returns:
        The sample, or why there is none. Only faults of the machine and of the store are raised.
    """
    found = read_slice(content)
    if isinstance(found, Rejected):
        return found
    try:
        return _sample_of(found, path, labels, task)
    except (MemoryError, OSError, UserError):  # What the machine or a store lacks is no fault of the file.
        raise
    except Exception as error:  # As in `read_slice`: one hostile file must not end the run, today and in every resume.
        return Rejected(Reason.UNREADABLE, f"no sample can be made of it ({type(error).__name__})")


def _sample_of(found: Slice, path: str, labels: npt.NDArray[np.int8], task: Task) -> Sample | Rejected:
    config = task.config
    fraction = geometry.brain_fraction(found.stored, found.slope, found.intercept)
    if fraction < config.min_brain_fraction:
        return Rejected(Reason.LITTLE_BRAIN, f"brain fraction {fraction:.4f}, wanted {config.min_brain_fraction:g}")
    narrow = geometry.narrow(found.stored, found.bounds)
    digest = pixel_digest(found, narrow)
    shown = with_square_pixels(found)
    image, box = render(shown, narrow if shown is found else None, config)
    key = key_of(path, config.key_style)
    label_values = {name: None if value == UNKNOWN else int(value) for name, value in zip(LABELS, labels, strict=True)}
    names = {kind: identity.pseudonym(getattr(found, kind), kind, task.pseudonym_key) for kind in identity.KINDS}
    spelled = {kind: getattr(found, kind) for kind in identity.KINDS} | {"slice": found.uid}
    scale = box.side / config.size
    described = {
        "key": key,
        "labels": label_values,
        **names,
        "position_mm": found.position,
        "spacing_mm": None if shown.spacing is None else [side * scale for side in shown.spacing],
        "brain_fraction": fraction,
        "windows": list(config.windows),
        "box": [box.top, box.left, box.side],
    }
    encoded = encode(image, config)
    row = {
        "key": key,
        "crc32": zlib.crc32(encoded),
        **label_values,
        **names,
        "position": found.position,
        "brain_fraction": fraction,
        "pixel_digest": digest,
        "rows": found.stored.shape[0],
        "columns": found.stored.shape[1],
        "spacing": None if found.spacing is None else found.spacing[0],
        "inverted": found.inverted,
        **{f"{kind}_number": identity.number(text, kind, task.pseudonym_key) for kind, text in spelled.items()},
    }
    return Sample(encoded, _to_json(described).encode(), row)
