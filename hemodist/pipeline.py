"""From rows of the index to tensors: checked bytes, DALI's decoding and geometry, zero-copy into torch.

A stateless callable of the iteration number hands DALI the encoded images and one affine map each; DALI decodes
(`mixed` on a GPU, `cpu` otherwise), moves the pixels once, and normalises. One code path serves both devices.
"""

from __future__ import annotations

import io
import mmap
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, pipeline_def, types
from PIL import Image

from hemodist.cache import ShardCache
from hemodist.errors import UserError
from hemodist.manifest import UNKNOWN, DataSet

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, in units of the full range: what torchvision's networks and their weights expect."""


class CorruptSampleError(UserError):
    """A sample's bytes do not match its checksum."""


@dataclass(frozen=True)
class Request:
    """What one batch consists of.

    Attributes:
        rows: int64 [b], rows of the index.
        affine: float32 [b, 2, 3], output to input pixel coordinates at the network's size, centers at half-integers;
            None where every map is the identity.
        brightness: float32 [b], added, in units of the full range.
        contrast: float32 [b], factor about the middle of the range.
    """

    rows: Ints
    affine: Floats | None
    brightness: Floats
    contrast: Floats


@dataclass(frozen=True)
class Batch:
    """What the network gets.

    Attributes:
        images: float32 [b, 3, h, w] on the loader's device, normalised; channels last in memory, which
            convolutions read faster, on CPUs too.
        targets: float32 [b, 6] on the same device; NaN where a label is unknown.
        weights: float32 [b] on the same device; 0 for a corrupt sample that was masked out, else 1.
        rows: int64 [b], rows of the index.
        number: of the batch in its stream; in training the global step.
    """

    images: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    rows: Ints
    number: int


class Reader:
    """Encoded images by row of the index, from memory-mapped shards, checked against their CRC-32.

    Attributes:
        corrupt: rows that failed their checksum so far (only with `on_corrupt="mask"`).
    """

    def __init__(self, dataset: DataSet, cache: ShardCache, on_corrupt: Literal["stop", "mask"] = "stop") -> None:
        """Set up; shards are mapped when first read."""
        self._dataset = dataset
        self._cache = cache
        self._on_corrupt = on_corrupt
        self._maps: dict[int, mmap.mmap] = {}
        self._shard = dataset.column("shard")
        self._offset = dataset.column("offset")
        self._size = dataset.column("size")
        self._crc32 = dataset.column("crc32")
        self._placeholder = _black_image(int(dataset.manifest.config["size"]))
        self.corrupt: set[int] = set()

    def read(self, row: int) -> Bytes:
        """The encoded image of a row, uint8 [size].

        Raises:
            CorruptSampleError: it does not match its checksum, and corrupt samples stop the run.
        """
        shard = int(self._shard[row])
        if shard not in self._maps:
            with self._cache.path(shard).open("rb") as file:
                self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = int(self._offset[row])
        encoded = np.frombuffer(self._maps[shard], np.uint8, int(self._size[row]), start)
        if zlib.crc32(encoded.data) == self._crc32[row]:
            return encoded
        if self._on_corrupt == "stop":
            raise CorruptSampleError(
                f"{self.describe(row)} does not match its checksum; shard again, "
                "or go on without such samples by --data.on-corrupt mask"
            )
        self.corrupt.add(row)
        return self._placeholder

    def describe(self, row: int) -> str:
        """A sample's key, shard and place."""
        key = self._dataset.index.column("key")[row].as_py()
        name = self._dataset.manifest.shards[int(self._shard[row])].name
        start, end = int(self._offset[row]), int(self._offset[row]) + int(self._size[row])
        return f"sample {key} in {self._dataset.store.uri}/{name} (bytes {start} to {end})"


class Loader:
    """An iterable over the batches `start`, `start` + 1, ..., `stop` - 1 of a stream.

    >>> for batch in Loader(dataset, reader, request_at, start=0, stop=10, max_batch=32,
    ...                     image_size=256, device="cpu"):  # doctest: +SKIP
    ...     logits = network(batch.images)
    """

    def __init__(
        self,
        dataset: DataSet,
        reader: Reader,
        request_at: Callable[[int], Request],
        *,
        start: int,
        stop: int,
        max_batch: int,
        image_size: int,
        device: torch.device | str,
        threads: int = 4,
        prefetch: int = 2,
    ) -> None:
        """Build the DALI pipeline.

        Args:
            dataset: the data set.
            reader: gives encoded images.
            request_at: the batch of a number; pure, called ahead of use.
            start: number of the first batch.
            stop: number after the last one.
            max_batch: largest number of samples in a batch.
            image_size: side of the output in pixels.
            device: `cpu`, or a CUDA device to decode and transform on.
            threads: DALI's CPU threads.
            prefetch: batches prepared ahead.
        """
        self._labels = dataset.labels()
        self._reader = reader
        self._request_at = request_at
        self._start, self._stop = start, stop
        self._rows: dict[int, Ints] = {}  # of the batches that DALI has been given and that have not come out
        self._device = torch.device(device)
        # One pipeline serves a whole stream, so whether pixels move is asked of its first batch.
        moves = start < stop and request_at(start).affine is not None
        self._pipeline = _pipeline(
            source=self._source,
            stored_size=int(dataset.manifest.config["size"]),
            image_size=image_size,
            moves=moves,
            decoder="mixed" if self._device.type == "cuda" else "cpu",
            batch_size=max_batch,
            num_threads=max(1, min(threads, len(os.sched_getaffinity(0)))),
            device_id=self._device.index or 0 if self._device.type == "cuda" else None,
            prefetch_queue_depth=prefetch,
            exec_dynamic=True,  # outputs live as long as somebody holds them, so torch may keep them without a copy
        )
        self._pipeline.build()

    def _source(self, iteration: int) -> tuple[Any, ...]:
        number = self._start + iteration
        if number >= self._stop:
            raise StopIteration
        request = self._request_at(number)
        self._rows[number] = request.rows
        encoded = [self._reader.read(int(row)) for row in request.rows]
        if request.affine is None:
            return (encoded,)
        # DALI takes the shift in units of its output, which is float here: full range 1, not 255.
        return encoded, request.affine, 255 * request.brightness, request.contrast

    def __iter__(self) -> Iterator[Batch]:
        """Run the stream once."""
        for number in range(self._start, self._stop):
            (images,) = self._pipeline.run()
            rows = self._rows.pop(number)
            labels = self._labels[rows]
            targets = np.where(labels == UNKNOWN, np.float32(np.nan), labels).astype(np.float32)
            weights = np.array([row not in self._reader.corrupt for row in rows.tolist()], np.float32)
            yield Batch(
                images=torch.utils.dlpack.from_dlpack(images.as_tensor()).permute(0, 3, 1, 2),
                targets=torch.from_numpy(targets).to(self._device, non_blocking=True),
                weights=torch.from_numpy(weights).to(self._device, non_blocking=True),
                rows=rows,
                number=number,
            )


@pipeline_def  # type: ignore[untyped-decorator]
def _pipeline(
    source: Callable[[int], tuple[Any, ...]],
    stored_size: int,
    image_size: int,
    moves: bool,
    decoder: str,
) -> Any:
    encoded, *motion = fn.external_source(source=source, num_outputs=4 if moves else 1, batch=True)
    images = fn.decoders.image(encoded, device=decoder, output_type=types.RGB)  # uint8 [h, w, 3]
    if stored_size != image_size:
        images = fn.resize(images, size=[image_size, image_size], antialias=True)
    if moves:
        affine, brightness, contrast = motion
        # Outside the image is air, which every window shows black.
        images = fn.warp_affine(images, matrix=affine, interp_type=types.INTERP_LINEAR, fill_value=0)
        images = fn.brightness_contrast(
            images, brightness_shift=brightness, contrast=contrast, contrast_center=127.5, dtype=types.FLOAT
        )
    return fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT,
        output_layout="HWC",
        mean=[255 * m for m in MEAN],
        std=[255 * s for s in STD],
    )


def _black_image(size: int) -> Bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size)).save(buffer, "PNG")
    return np.frombuffer(buffer.getvalue(), np.uint8)
