"""From encoded pictures to batches of tensors: DALI decodes, and functions of tensors do the rest.

A callable of the batch's number says which pictures a batch consists of and how they are changed. DALI decodes checked
bytes (`mixed` on a GPU, `cpu` otherwise), and resizes where nothing else moves the pixels. What follows is `pixels`,
on the same device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, pipeline_def, types

from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.dataset.manifest import DatasetError
from hemodist.errors import ConfigError
from hemodist.loading.ahead import one_ahead
from hemodist.loading.decode_settings import DecodeSettings
from hemodist.loading.encoded_pictures import EncodedPictures
from hemodist.loading.geometry import to_device
from hemodist.loading.mixing import mix_images, mix_targets
from hemodist.loading.pixels import PixelThreads, light_of, network_input
from hemodist.plan.mix import Mix
from hemodist.plan.order import NeededShards

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What images can be; they are computed as float32."""


@dataclass(frozen=True)
class Request:
    """Which pictures one batch consists of, and how they are changed.

    Attributes:
        rows: int64 [b], rows of the pictures.
        affine: float32 [b, 2, 3], output to input coordinates in units of the picture's side; None where nothing moves
            them, which then holds for the whole stream.
        brightness: float32 [b], added, in units of the full range; None for 0.
        contrast: float32 [b], factor about the middle of the range; None for 1.
        mix: what the mix groups mix, which divide the batch; None for nothing.
        needed: the shards that this batch and those after it need; None where that is not known, and then all shards
            stay open that were.
        epoch: the epoch that the global batch begins in.
        position: of the global batch's first sample in that epoch.
    """

    rows: Ints
    affine: Floats | None = None
    brightness: Floats | None = None
    contrast: Floats | None = None
    mix: Mix | None = None
    needed: NeededShards | None = None
    epoch: int = 0
    position: int = 0


@dataclass(frozen=True)
class Batch:
    """What the network gets.

    Attributes:
        images: [b, 3, h, w] of the wanted dtype on the wanted device, normalised; by default channels last in memory,
            which convolutions read faster, on CPUs too.
        targets: float32 [b, 6] on the same device; NaN where a label is unknown.
        weights: float32 [b] on the same device; 0 for a corrupt sample that was masked out, else 1.
        rows: int64 [b], rows of the pictures.
        number: of the batch in its stream; in training the global step.
        keys: names of the samples in the shards; empty where they have none.
        epoch: the epoch that the global batch begins in.
        position: of the global batch's first sample in that epoch.
    """

    images: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    rows: Ints
    number: int
    keys: tuple[str, ...] = ()
    epoch: int = 0
    position: int = 0


class DaliBatches:
    """An iterable over the batches `start`, `start` + 1, ..., `stop` - 1 of a stream.

    `hemodist.loading.training_loader` makes one of a data set's URI; this class takes any requests.

    >>> for batch in DaliBatches(pictures, request_at, DecodeSettings(image_size=256),
    ...                          start=0, stop=10, max_batch=32):  # doctest: +SKIP
    ...     logits = network(batch.images)
    """

    def __init__(
        self,
        pictures: EncodedPictures,
        request_at: Callable[[int], Request],
        settings: DecodeSettings,
        *,
        start: int,
        stop: int,
        max_batch: int,
    ) -> None:
        """Build the DALI pipeline.

        Args:
            pictures: gives encoded pictures, and their labels and names.
            request_at: the batch of a number; pure, called ahead of use, on a thread.
            settings: device, threads and output of the decoder.
            start: number of the first batch.
            stop: number after the last one.
            max_batch: largest number of samples in a batch.

        Raises:
            ConfigError: dtype or decoder cannot be had.
            DatasetError: the pictures have neither one window nor three.
        """
        self._device = torch.device(settings.device)
        on_gpu = self._device.type == "cuda"
        if self._device == torch.device("cuda"):  # DALI and PyTorch must mean the same one
            self._device = torch.device("cuda", torch.cuda.current_device())
        if settings.decoder == "mixed" and not on_gpu:
            raise ConfigError(
                f"data.decoder mixed decodes on a GPU, but the device is {settings.device}; use auto or cpu"
            )
        if settings.dtype not in DTYPES:
            raise ConfigError(f"images cannot be {settings.dtype}; use one of {', '.join(map(str, DTYPES))}")
        if pictures.windows not in (1, 3):
            raise DatasetError(
                f"{pictures.where} has images of {pictures.windows} windows; shard again with one or three"
            )
        self._pictures, self._request_at, self._settings = pictures, request_at, settings
        self._start, self._stop = start, stop
        self._given: dict[int, tuple[Request, list[npt.NDArray[np.uint8]]]] = {}  # until it comes out of DALI
        # One pipeline serves a whole stream, so whether pixels move is asked of its first batch.
        moves = start < stop and request_at(start).affine is not None
        resizes = not moves and pictures.stored_size != settings.image_size
        cpus = len(os.sched_getaffinity(0))
        # One more than CPUs: a thread sleeps whenever batches that Python hands over end or begin (14 % on 2 CPUs).
        threads = max(1, min(settings.threads, cpus + 1))
        self._pixel_threads = None if on_gpu else PixelThreads(min(threads, cpus))
        self._pipeline = _pipeline(
            source=self._source,
            size=settings.image_size if resizes else None,
            decoder="cpu" if settings.decoder == "cpu" or not on_gpu else "mixed",
            engine=settings.hw_decoder_load,
            on_gpu=on_gpu,
            batch_size=max_batch,
            num_threads=threads,
            device_id=self._device.index if on_gpu else None,
            prefetch_queue_depth=settings.prefetch,
            exec_dynamic=True,  # outputs live as long as somebody holds them, so torch may keep them without a copy
        )
        self._pipeline.build()

    def _source(self, iteration: int) -> list[npt.NDArray[np.uint8]]:
        number = self._start + iteration
        if number >= self._stop:
            raise StopIteration
        request = self._request_at(number)
        self._pictures.follow(request.needed)
        encoded = [self._pictures.read(int(row)) for row in request.rows]
        self._given[number] = request, encoded
        return encoded

    def __iter__(self) -> Iterator[Batch]:
        """Run the stream once; the next batch is made while the caller uses one."""
        try:
            yield from one_ahead(map(self._made, range(self._start, self._stop)), self._device)
        finally:  # DALI's threads and buffers go now, not when Python's collector comes by; batches in use stay
            if self._pixel_threads is not None:
                self._pixel_threads.close()
            del self._pipeline

    def _made(self, number: int) -> Batch:
        (output,) = self._pipeline.run()
        request, _ = self._given.pop(number)
        targets = self._targets(request.rows)
        weights = np.array([row not in self._pictures.corrupt for row in request.rows.tolist()], np.float32)
        if request.mix is not None:
            targets, weights = mix_targets(targets, weights, request.mix)
        return Batch(
            images=self._images(torch.utils.dlpack.from_dlpack(output.as_tensor()), request),
            targets=to_device(targets, self._device),
            weights=to_device(weights, self._device),
            rows=request.rows,
            number=number,
            keys=self._pictures.keys(request.rows),
            epoch=request.epoch,
            position=request.position,
        )

    def _images(self, decoded: torch.Tensor, request: Request) -> torch.Tensor:
        """What the network sees of decoded pictures, uint8 [b, side, side, 3]."""
        size = self._settings.image_size
        make = network_input if self._pixel_threads is None else self._pixel_threads.network_input
        images = torch.empty(len(decoded), size, size, 3, device=decoded.device)
        make(decoded, request.affine, light_of(len(decoded), request.brightness, request.contrast), size, images)
        if request.mix is not None:
            mix_images(images, request.mix)
        layout = torch.channels_last if self._settings.channels_last else torch.contiguous_format
        return images.permute(0, 3, 1, 2).to(self._settings.dtype, memory_format=layout)

    def _targets(self, rows: Ints) -> Floats:
        """Labels as numbers, float32 [b, 6]; NaN where one is unknown."""
        if (labels := self._pictures.labels) is None:
            return np.full((len(rows), len(LABELS)), np.nan, np.float32)
        return np.where(labels[rows] == UNKNOWN, np.float32(np.nan), labels[rows]).astype(np.float32)


@pipeline_def  # type: ignore[untyped-decorator]
def _pipeline(
    source: Callable[[int], list[npt.NDArray[np.uint8]]], size: int | None, decoder: str, engine: float, on_gpu: bool
) -> Any:
    """Decoded pictures, uint8 [side, side, 3], resized to `size` where that is given."""
    encoded = fn.external_source(source=source, batch=True, no_copy=True)
    images = fn.decoders.image(encoded, device=decoder, output_type=types.RGB, hw_decoder_load=engine)  # grey is spread
    if on_gpu and decoder == "cpu":
        images = images.gpu()
    if size is not None:
        images = fn.resize(images, size=[size, size], antialias=True)
    return images
