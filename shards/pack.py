"""One task: some source files in, one tar with its index and its record out. Everything a worker runs is here."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import io
import json
import time
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from hemodist import store
from hemodist.manifest import LABELS, UNKNOWN, sha256, shard_name
from hemodist.store import Store, StoreError
from shards import clean, dicom, record, window
from shards.reason import Reason, Rejected
from shards.source import File, KeyStyle, key_of
from shards.tar import TarWriter, index_file

Encoding = Literal["jpeg", "png"]

EXTENSIONS: dict[str, str] = {"jpeg": "jpg", "png": "png"}
"""Extension of the image in a tar, by encoding."""

_TABLE_STEP = 4096
"""Sums by which the bounds of a window table are rounded; a power of two."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""mallopt(3): free memory above which some is given back; size from which memory is mapped, 32 MiB at most."""

MAX_FILE_BYTES = 256 * 2**20
"""A larger source file is rejected unread: 500 times an uncompressed 512 x 512 slice."""


@dataclass(frozen=True)
class PackConfig:
    """What decides the bytes of a sample.

    Attributes:
        size: rows and columns of the stored image.
        windows: names or `center/width`, one a channel.
        encoding: `jpeg`, or `png` where losslessness matters more than decoding on a GPU.
        quality: of JPEG, 1 to 100; chroma is never subsampled, since the channels are windows and not colours.
        crop_head: store the square around the head rather than the whole image.
        min_brain_fraction: reject slices with a smaller share of pixels in 0 to 80 HU.
        key_style: what the keys are made of.
    """

    size: int
    windows: tuple[str, ...]
    encoding: Encoding
    quality: int
    crop_head: bool
    min_brain_fraction: float
    key_style: KeyStyle


@dataclass(frozen=True)
class Task:
    """The files of one shard, with all that a worker needs.

    Attributes:
        number: of the shard.
        source: path or URI of the source.
        output: path or URI of the data set.
        files: in the order in which they go into the tar.
        labels: int8 [files, 6] as bytes.
        config: what decides the bytes of a sample.
        build_digest: of the whole configuration; a record of another one is not taken over.
        pseudonym_key: secret key of the pseudonyms.
    """

    number: int
    source: str
    output: str
    files: tuple[File, ...]
    labels: bytes
    config: PackConfig
    build_digest: str
    pseudonym_key: bytes

    def __repr__(self) -> str:  # The key must not reach a log.
        return f"Task({self.number}, {len(self.files)} files)"


@dataclass(frozen=True)
class TaskResult:
    """What a task did, for the progress bar.

    Attributes:
        number: of the shard.
        samples: in the tar.
        rejected: files that are no sample.
        bytes: of the tar.
        resumed: the shard was there already.
    """

    number: int
    samples: int
    rejected: int
    bytes: int
    resumed: bool


@dataclass(frozen=True)
class Sample:
    """One slice, ready for the tar: the encoded image, its JSON, and its row of the record."""

    image: bytes
    json: bytes
    row: dict[str, Any]


def run_task(task: Task) -> TaskResult:
    """Write the tar, its DALI index and, last, its record; or find them there and whole.

    Raises:
        StoreError: the source cannot be read or the output not written, also after some tries.
    """
    _keep_freed_memory()
    output = Store.open(task.output)
    known = record.load(output, task.number, task.build_digest, task.files)
    if known is not None and record.holds(output, known):
        return TaskResult(task.number, known.samples, len(task.files) - known.samples, known.bytes, resumed=True)
    source = Store.open(task.source)
    labels = np.frombuffer(task.labels, np.int8).reshape(len(task.files), len(LABELS))
    tar, rows = TarWriter(), []
    for file, label in zip(task.files, labels, strict=True):
        content = read_source(source, file)
        made = content if isinstance(content, Rejected) else make_sample(content, file.path, label, task)
        row: dict[str, Any] = {"path": file.path, "source_size": file.size}
        if isinstance(made, Rejected):
            rows.append(row | {"reason": made.reason.value, "detail": made.detail})
            continue
        image = tar.add(f"{made.row['key']}.{EXTENSIONS[task.config.encoding]}", made.image)
        tar.add(f"{made.row['key']}.json", made.json)
        rows.append(row | made.row | {"shard": task.number, "offset": image.offset, "size": image.size})
    content = tar.finish()
    name = shard_name(task.number)
    index = index_file(tar.members)
    output.write(name, content)
    output.write(index_name(name), index)
    done = record.Record(task.number, len(tar.members) // 2, len(content), sha256(content), sha256(index))
    record.save(output, done, task.build_digest, pa.Table.from_pylist(rows, record.SCHEMA))
    return TaskResult(task.number, done.samples, len(task.files) - done.samples, done.bytes, resumed=False)


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next slice: the kernel's fresh pages cost as much time as all arithmetic.

    An image is larger than what malloc keeps by default, so that each array would be mapped, cleared and unmapped.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has no mallopt, and other habits
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 * 2**20)


def index_name(tar_name: str) -> str:
    """Name of a tar's DALI index: beside it, ending in `.idx`."""
    return tar_name.removesuffix(".tar") + ".idx"


def read_source(source: Store, file: File) -> bytes | Rejected:
    """The bytes of a source file; a fault of the file is a `Rejected`, one of the store is raised.

    Raises:
        StoreError: it cannot be read, or is not what was listed.
    """
    if file.size > MAX_FILE_BYTES:
        return Rejected(Reason.ABSURD_SIZE, f"a file of {file.size} bytes, at most {MAX_FILE_BYTES} are read")
    for wait in (*store.WAITS, None):
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
        f"{source.uri}/{file.path} held {file.size} bytes when listed and gives {len(content)} now; "
        "let the source rest while it is sharded, then run again"
    )


def make_sample(content: bytes, path: str, labels: npt.NDArray[np.int8], task: Task) -> Sample | Rejected:
    """Make a sample of a file's bytes.

    Args:
        content: of the file.
        path: of the file, below the source.
        labels: int8 [6], 0, 1 or `UNKNOWN`.
        task: configuration and pseudonym key.
    """
    found = dicom.read(content)
    if isinstance(found, Rejected):
        return found
    config = task.config
    fraction = clean.brain_fraction(found.stored, found.slope, found.intercept)
    if fraction < config.min_brain_fraction:
        return Rejected(Reason.LITTLE_BRAIN, f"brain fraction {fraction:.4f}, wanted {config.min_brain_fraction:g}")
    shown = with_square_pixels(found)
    image, box = render(shown, config)
    key = key_of(path, config.key_style)
    label_values = {name: None if value == UNKNOWN else int(value) for name, value in zip(LABELS, labels, strict=True)}
    names = {kind: pseudonym(getattr(found, kind), kind, task.pseudonym_key) for kind in ("patient", "study", "series")}
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
        "pixel_digest": pixel_digest(found),
        "uid": None if found.uid is None else pseudonym(found.uid, "slice", task.pseudonym_key),
    }
    return Sample(encoded, json.dumps(described, sort_keys=True, allow_nan=False).encode(), row)


def with_square_pixels(found: dicom.Slice) -> dicom.Slice:
    """The slice with pixels as wide as high, where the file says that they are not."""
    if found.spacing is None:
        return found
    stored = clean.square_pixels(found.stored, found.spacing)
    side = max(found.spacing)
    return found if stored is found.stored else dataclasses.replace(found, stored=stored, spacing=(side, side))


def render(found: dicom.Slice, config: PackConfig) -> tuple[npt.NDArray[np.uint8], clean.Box]:
    """The windowed image, uint8 [size, size, channels], and the square of source pixels that it shows."""
    if config.crop_head:
        box = clean.head_box(found.stored, found.slope, found.intercept)
    else:
        box = clean.full_box(*found.stored.shape)
    square = clean.cut(found.stored, box, clean.air_value(found.slope, found.intercept))
    sums, divisor = clean.resample(square, config.size)
    low, high = int(sums.min()), int(sums.max())
    if high - low >= sums.size:  # A table would cost more than it saves.
        hu = clean.to_hu(sums, divisor, found.slope, found.intercept)
        return window.apply(hu, [window.parse(text) for text in config.windows]), box
    # Rounded outwards, so that the slices of a series share a table.
    low, high = low & -_TABLE_STEP, high | (_TABLE_STEP - 1)
    table = _window_table(low, high, divisor, found.slope, found.intercept, config.windows)
    return table.take(sums - low, axis=0), box


@lru_cache(maxsize=16)
def _window_table(
    low: int, high: int, divisor: int, slope: float, intercept: float, windows: tuple[str, ...]
) -> npt.NDArray[np.uint8]:
    """The channels of every sum from `low` to `high`, uint8 [sums, channels]: what `window.apply` gives for each."""
    hu = clean.to_hu(np.arange(low, high + 1)[None], divisor, slope, intercept)
    table: npt.NDArray[np.uint8] = window.apply(hu, [window.parse(text) for text in windows])[0]
    return table


def encode(image: npt.NDArray[np.uint8], config: PackConfig) -> bytes:
    """Encode uint8 [size, size, channels]: one channel as grey, three as RGB."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    buffer = io.BytesIO()
    if config.encoding == "png":
        picture.save(buffer, "PNG")
    else:
        picture.save(buffer, "JPEG", quality=config.quality, subsampling="4:4:4")
    return buffer.getvalue()


def pixel_digest(found: dicom.Slice) -> bytes:
    """16 bytes that name the image in HU before cleaning.

    Equal for equal HU under whole slopes and intercepts, the rule for CT, however the file stores them.
    """
    values: npt.NDArray[np.int16 | np.float32]
    if found.slope.is_integer() and found.intercept.is_integer():
        low = int(found.stored.min()) * int(found.slope) + int(found.intercept)
        high = int(found.stored.max()) * int(found.slope) + int(found.intercept)
        if min(low, high) >= -(2**15) and max(low, high) < 2**15:
            # Every product and sum lies between these two; 16 bits wrap back into place even where a step does not.
            narrow = found.stored.astype(np.int16)
            if found.slope != 1:
                narrow *= np.array(int(found.slope)).astype(np.int16)
            narrow += np.array(int(found.intercept)).astype(np.int16)
            values = narrow
        else:
            values = (found.stored * np.int64(found.slope) + np.int64(found.intercept)).astype(np.float32)
    else:
        values = found.hu().astype(np.float32)
    head = f"{values.dtype.str}{values.shape}".encode()
    # SHA-256 rather than BLAKE2: processors have instructions for it.
    digest = hashlib.sha256(head)
    digest.update(np.ascontiguousarray(values).data)
    return digest.digest()[:16]


def pseudonym(identifier: str | None, kind: str, key: bytes) -> str | None:
    """A keyed name that tells nothing without the key, 32 hexadecimal digits; None stays None."""
    if identifier is None:
        return None
    content = identifier.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16, key=key, person=kind.encode()).hexdigest()
