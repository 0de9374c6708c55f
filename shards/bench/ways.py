"""Five ways from the same files to pictures, timed side by side: the sharder, its bounds and its peers.

- `hemodist`: the sharder's whole task. Every check and repair, digests, the tar with its index and record, flushed.
- `limit`: reads the bytes, resamples by area, looks three windows up in one table and encodes with libjpeg-turbo, each
  in the fastest way that plain NumPy and Pillow have. It knows beforehand where the pixels lie, which rescale holds,
  and that 16 bits hold the sums of four. It checks nothing and writes nothing.
- `kernels`: the limit with the sharder's own trick between table and encoder, a bound that the sharder cannot pass.
- `notebook`: pydicom's pixel array, windows in floating point, PIL's resize and save.
- `webdataset`: the notebook's arithmetic, packed by that library's ShardWriter.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image

from hemodist.bench.rounds import ratio
from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.errors import ConfigError
from shards.bench import webdataset_writer
from shards.dicom.read import Slice, read_slice
from shards.packing import task
from shards.packing.source_files import File
from shards.picture import encode, geometry, windows

SIZE = 256
QUALITY = 95
WINDOWS = ("brain", "subdural", "soft_tissue")
_CONFIG = task.PackConfig(
    size=SIZE,
    windows=WINDOWS,
    encoding="jpeg",
    quality=QUALITY,
    crop_head=False,
    min_brain_fraction=0.0,
    key_style="stem",
)


@dataclass(frozen=True)
class Part:
    """Files for one process.

    Attributes:
        folder: the source.
        files: the files below it.
        formats: stored type, slope and intercept of each file, for the limit.
        output: an empty folder for what is written.
        number: number of the part.
    """

    folder: str
    files: tuple[File, ...]
    formats: tuple[tuple[str, float, float], ...]
    output: str
    number: int


@dataclass(frozen=True)
class WayRate:
    """Slices a second of one way in one number of processes, one figure a round."""

    way: str
    processes: int
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.rounds)


def hemodist(part: Part) -> None:
    """The sharder's own task, from reading to the flushed record."""
    todo = task.Task(
        number=part.number,
        source=part.folder,
        output=part.output,
        files=part.files,
        labels=np.full((len(part.files), len(LABELS)), UNKNOWN, np.int8).tobytes(),
        config=_CONFIG,
        build_digest="bench",
        pseudonym_key=bytes(16),
    )
    task.run_task(todo)


def limit(part: Part) -> None:
    """Nothing but what the pixels need."""
    for file, form in zip(part.files, part.formats, strict=True):
        limit_image((Path(part.folder) / file.path).read_bytes(), form)


def limit_image(content: bytes, form: tuple[str, float, float]) -> bytes:
    """One slice of 512 x 512 the shortest way: sums of four pixels, one table for all windows, JPEG."""
    picture = io.BytesIO()
    image = Image.fromarray(_table(*form).take(_sums(content, form[0]), axis=0))
    image.save(picture, "JPEG", quality=QUALITY, subsampling="4:4:4")
    return picture.getvalue()


def kernels(part: Part) -> None:
    """The limit once more, with the sharder's own way to hand pixels to the encoder."""
    for file, form in zip(part.files, part.formats, strict=True):
        kernels_image((Path(part.folder) / file.path).read_bytes(), form)


def kernels_image(content: bytes, form: tuple[str, float, float]) -> bytes:
    """Four bytes a pixel, as Pillow keeps RGB: they are looked up at once, and nothing is copied before encoding."""
    return encode.encode(_packed_table(*form).take(_sums(content, form[0])), _CONFIG)


def _sums(content: bytes, kind: str) -> npt.NDArray[np.uint16]:
    """The 16 bits of the sums of 2 x 2 stored values, uint16 [256, 256]."""
    side = 2 * SIZE
    stored = np.frombuffer(content, kind, side * side, len(content) - 2 * side * side).reshape(side, side)
    rows = stored[0::2] + stored[1::2]
    sums: npt.NDArray[np.uint16] = (rows[:, 0::2] + rows[:, 1::2]).view(np.uint16)
    return sums


def notebook(part: Part) -> None:
    """As notebooks do it: pydicom, windows in floating point, PIL's resize and save."""
    for number, file in enumerate(part.files):
        read = pydicom.dcmread(Path(part.folder) / file.path)
        hu = read.pixel_array.astype(np.float64) * float(read.RescaleSlope) + float(read.RescaleIntercept)
        channels = []
        for name in WINDOWS:
            low = windows.NAMED[name].center - windows.NAMED[name].width / 2
            channels.append(np.clip((hu - low) / windows.NAMED[name].width, 0, 1) * 255)
        image = Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)).resize((SIZE, SIZE))
        image.save(Path(part.output) / f"{number}.jpg", quality=QUALITY)


def webdataset(part: Part) -> None:
    """The notebook's arithmetic, packed by the webdataset library's own writer."""
    paths = [Path(part.folder) / file.path for file in part.files]
    webdataset_writer.write(paths, Path(part.output), WINDOWS, SIZE, QUALITY)


WAYS: dict[str, Callable[[Part], None]] = {
    "hemodist": hemodist,
    "limit": limit,
    "kernels": kernels,
    "notebook": notebook,
    "webdataset": webdataset,
}


def measure(source: Path, rounds: int, processes: tuple[int, ...] = (1, 2), repeats: int = 1) -> list[WayRate]:
    """Time every way on every file of a source, the ways in turn in each round, so that all meet the same machine.

    Args:
        source: folder of uncompressed little endian slices of 512 x 512.
        rounds: that count; one before them warms caches and processes up.
        processes: numbers of processes, one after the other.
        repeats: how often each file is taken in a round and process, so that a few files fill shards of a real size.

    Raises:
        ConfigError: the files are of another kind.
    """
    files = sorted(path for path in source.rglob("*.dcm") if path.is_file())
    if not files:
        raise ConfigError(f"there is no .dcm file below {source}; `python -m shards phantom {source}` makes some")
    formats = tuple(_format(path) for path in files) * repeats
    listed = tuple(File(str(path.relative_to(source)), path.stat().st_size) for path in files) * repeats
    rates = []
    with tempfile.TemporaryDirectory(prefix="hemodist-bench-") as scratch:
        for count in processes:
            parts = [
                Part(str(source), listed[n::count] * count, formats[n::count] * count, f"{scratch}/{n}", n)
                for n in range(count)
            ]
            with multiprocessing.get_context("spawn").Pool(count) as pool:
                seconds: dict[str, list[float]] = {name: [] for name in WAYS}
                for round_ in range(rounds + 1):
                    for name, way in WAYS.items():
                        for part in parts:
                            Path(part.output).mkdir()
                        os.sync()  # no way waits for what another has left to be flushed
                        start = time.perf_counter()
                        pool.map(way, parts, chunksize=1)
                        if round_:
                            seconds[name].append(time.perf_counter() - start)
                        for part in parts:
                            shutil.rmtree(part.output)
            for name, taken in seconds.items():
                rates.append(WayRate(name, count, tuple(count * len(listed) / value for value in taken)))
    return rates


def ratios(rates: list[WayRate]) -> dict[str, float]:
    """The sharder's rate as a share of each bound and as a multiple of its peers', by number of processes.

    Each is the median of the rounds' own ratios: what slows a whole round cancels out.
    """
    found = {(rate.way, rate.processes): rate.rounds for rate in rates}
    return {
        f"{text}, {count} processes": ratio(found["hemodist", count], found[way, count])
        for count in sorted({rate.processes for rate in rates})
        for way, text in (
            ("limit", "share of the limit"),
            ("kernels", "share of its own kernels"),
            ("notebook", "times the notebook"),
            ("webdataset", "times webdataset's writer"),
        )
    }


def _format(path: Path) -> tuple[str, float, float]:
    read = pydicom.dcmread(path)
    native = not read.file_meta.TransferSyntaxUID.is_compressed and read.file_meta.TransferSyntaxUID.is_little_endian
    if not native or (read.Rows, read.Columns, read.BitsAllocated) != (2 * SIZE, 2 * SIZE, 16):
        raise ConfigError(f"{path} is not an uncompressed little endian slice of {2 * SIZE} x {2 * SIZE} in 16 bits")
    if len(read.PixelData) != 8 * SIZE * SIZE or next(reversed(list(read.keys()))) != 0x7FE00010:
        raise ConfigError(f"{path} does not end in its pixels")
    kind = "<i2" if read.PixelRepresentation else "<u2"
    values = np.frombuffer(read.PixelData, kind)
    if not -(2**13) <= int(values.min()) <= int(values.max()) < 2**13:
        raise ConfigError(f"{path} holds values of more than 14 bits, whose sums 16 bits do not hold")
    slope, intercept = float(read.RescaleSlope), float(read.RescaleIntercept)
    if read.PhotometricInterpretation == "MONOCHROME1":
        # Values that are stored inverted are HU by a table as well: that of a falling line.
        ends = -1 if read.PixelRepresentation else 2**read.BitsStored - 1
        falling = -slope, intercept + ends * slope
        found = read_slice(path.read_bytes())
        if isinstance(found, Slice) and np.mean(values * falling[0] + falling[1] == found.hu().ravel()) > 0.5:
            slope, intercept = falling
    return kind, slope, intercept


@lru_cache(maxsize=8)
def _table(kind: str, slope: float, intercept: float) -> npt.NDArray[np.uint8]:
    """Grey values by the 16 bits of the sum of four stored values, uint8 [65536, 3]."""
    hu = geometry.to_hu(np.arange(2**16, dtype=np.uint16).view(kind), 4, slope, intercept)[None]
    table: npt.NDArray[np.uint8] = windows.apply(hu, [windows.NAMED[name] for name in WINDOWS])[0]
    return table


@lru_cache(maxsize=8)
def _packed_table(kind: str, slope: float, intercept: float) -> npt.NDArray[np.uint32]:
    """The same with four bytes each, uint32 [65536]."""
    table = np.zeros((2**16, 4), np.uint8)
    table[:, :3] = _table(kind, slope, intercept)
    return table.view(np.uint32)[:, 0]
