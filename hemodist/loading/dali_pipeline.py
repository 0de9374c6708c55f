"""From encoded pictures to batches of tensors: DALI decodes, moves and normalises them, and torch takes its memory.

A callable of the batch's number says which pictures a batch consists of and gives one affine map for each. DALI decodes
(`mixed` on a GPU, `cpu` otherwise), interpolates the pixels once, and normalises. One code path serves both devices.
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
from hemodist.loading.decode_settings import DecodeSettings
from hemodist.loading.encoded_pictures import EncodedPictures
from hemodist.loading.regions import crops, regions
from hemodist.plan.order import NeededShards

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, in units of the full range: what torchvision's networks and their weights expect."""

DTYPES = {torch.float32: types.FLOAT, torch.float16: types.FLOAT16, torch.bfloat16: types.FLOAT}
"""The type that DALI makes for each type of images; it has no bfloat16 of its own."""

REGIONS_PAY_FROM = 512
"""Side of the stored pictures, in pixels, from which decoding only the part that is shown saves time on a CPU."""


@dataclass(frozen=True)
class Request:
    """Which pictures one batch consists of, and how they are changed.

    Attributes:
        rows: int64 [b], rows of the pictures.
        affine: float32 [b, 2, 3], output to input pixel coordinates at the network's size, centers at half-integers;
            None where every map is the identity, brightness and contrast included.
        brightness: float32 [b], added, in units of the full range; None for 0.
        contrast: float32 [b], factor about the middle of the range; None for 1.
        needed: the shards that this batch and those after it need; None where that is not known, and then all shards
            stay open that were.
        epoch: the epoch that the global batch begins in.
        position: of the global batch's first sample in that epoch.
    """

    rows: Ints
    affine: Floats | None = None
    brightness: Floats | None = None
    contrast: Floats | None = None
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


@dataclass(frozen=True)
class _Geometry:
    """How pixels get from stored pictures to the network's size.

    Attributes:
        stored_size: side of the stored pictures in pixels.
        image_size: side of the output in pixels.
        moves: whether there is an affine map, brightness and contrast for each picture.
        upright: whether each map is a crop, flipped or not, which is one resize of a part of the picture.
        parts: whether only the part of a picture is decoded that its map reads.
    """

    stored_size: int
    image_size: int
    moves: bool
    upright: bool
    parts: bool

    @property
    def resizes(self) -> bool:
        """Whether pictures are stored in another size than the network's."""
        return self.stored_size != self.image_size


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
        upright: bool = False,
        regions_only: bool | None = None,
    ) -> None:
        """Build the DALI pipeline.

        Args:
            pictures: gives encoded pictures, and their labels and names.
            request_at: the batch of a number; pure, called ahead of use.
            settings: device, threads and output of the decoder.
            start: number of the first batch.
            stop: number after the last one.
            max_batch: largest number of samples in a batch.
            upright: nothing is turned or transposed, so that a crop is one resize of a part of the stored picture,
                which is sharper and takes half the time of the map.
            regions_only: decode only the part of a picture that an augmented image shows; the pixels are the same up
                to a grey level. None for where that saves time: on the CPU, for pictures of `REGIONS_PAY_FROM` pixels.

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
        self._pictures = pictures
        self._request_at = request_at
        self._start, self._stop = start, stop
        self._given: dict[int, Request] = {}  # what DALI has been given and what has not come out
        self._dtype, self._channels_last = settings.dtype, settings.channels_last
        # One pipeline serves a whole stream, so whether pixels move is asked of its first batch.
        moves = start < stop and request_at(start).affine is not None
        decodes_on_cpu = settings.decoder == "cpu" or not on_gpu
        if regions_only is None:
            regions_only = decodes_on_cpu and pictures.stored_size >= REGIONS_PAY_FROM
        self._geometry = _Geometry(
            pictures.stored_size, settings.image_size, moves, upright=moves and upright, parts=moves and regions_only
        )
        self._pipeline = _pipeline(
            source=self._source,
            geometry=self._geometry,
            decoder="cpu" if decodes_on_cpu else "mixed",
            engine=settings.hw_decoder_load,
            on_gpu=on_gpu,
            dtype=DTYPES[settings.dtype],
            layout="HWC" if settings.channels_last else "CHW",
            batch_size=max_batch,
            # One more than CPUs: a thread sleeps whenever batches that Python hands over end or begin (14 % on 2 CPUs).
            num_threads=max(1, min(settings.threads, len(os.sched_getaffinity(0)) + 1)),
            device_id=self._device.index if on_gpu else None,
            prefetch_queue_depth=settings.prefetch,
            exec_dynamic=True,  # outputs live as long as somebody holds them, so torch may keep them without a copy
        )
        self._pipeline.build()

    def _source(self, iteration: int) -> tuple[Any, ...]:
        number = self._start + iteration
        if number >= self._stop:
            raise StopIteration
        request = self._request_at(number)
        self._given[number] = request
        self._pictures.follow(request.needed)
        encoded = [self._pictures.read(int(row)) for row in request.rows]
        if request.affine is None:
            return (encoded,)
        samples = len(request.rows)
        brightness = np.zeros(samples, np.float32) if request.brightness is None else request.brightness
        contrast = np.ones(samples, np.float32) if request.contrast is None else request.contrast
        # DALI takes the shift in units of its output, which is float here: full range 1, not 255.
        light = 255 * brightness, contrast
        geometry = self._geometry
        stored, size = geometry.stored_size, geometry.image_size
        if geometry.upright:
            crop = crops(request.affine, stored, size, cut=geometry.parts)
            part = (crop.start, crop.shape) if geometry.parts else ()
            return encoded, *light, *part, crop.first, crop.last
        if not geometry.parts:
            return encoded, *light, request.affine
        cut = regions(request.affine, stored, size)
        resized = (cut.resized,) if geometry.resizes else ()
        return encoded, *light, cut.start, cut.shape, *resized, cut.affine

    def close(self) -> None:
        """Free DALI's threads and buffers now, not when Python's collector comes by; batches in use stay."""
        del self._pipeline

    def __iter__(self) -> Iterator[Batch]:
        """Run the stream once."""
        for number in range(self._start, self._stop):
            (output,) = self._pipeline.run()
            request = self._given.pop(number)
            targets = self._targets(request.rows)
            weights = np.array([row not in self._pictures.corrupt for row in request.rows.tolist()], np.float32)
            images = torch.utils.dlpack.from_dlpack(output.as_tensor()).to(self._dtype)  # a copy for bfloat16 only
            yield Batch(
                images=images.permute(0, 3, 1, 2) if self._channels_last else images,
                targets=torch.from_numpy(targets).to(self._device, non_blocking=True),
                weights=torch.from_numpy(weights).to(self._device, non_blocking=True),
                rows=request.rows,
                number=number,
                keys=self._pictures.keys(request.rows),
                epoch=request.epoch,
                position=request.position,
            )

    def _targets(self, rows: Ints) -> Floats:
        """Labels as numbers, float32 [b, 6]; NaN where one is unknown."""
        if (labels := self._pictures.labels) is None:
            return np.full((len(rows), len(LABELS)), np.nan, np.float32)
        return np.where(labels[rows] == UNKNOWN, np.float32(np.nan), labels[rows]).astype(np.float32)


@pipeline_def  # type: ignore[untyped-decorator]
def _pipeline(
    source: Callable[[int], tuple[Any, ...]],
    geometry: _Geometry,
    decoder: str,
    engine: float,
    on_gpu: bool,
    dtype: Any,
    layout: str,
) -> Any:
    moves, upright, parts = geometry.moves, geometry.upright, geometry.parts
    sized = parts and geometry.resizes and not upright  # a part is as large as it happens to be
    outputs = 1 + 3 * moves + upright + 2 * parts + sized
    encoded, *motion = fn.external_source(source=source, num_outputs=outputs, batch=True)
    whole = [geometry.image_size, geometry.image_size]
    if moves:
        brightness, contrast, *motion = motion
    how = {"device": decoder, "output_type": types.RGB, "hw_decoder_load": engine}
    if parts:
        start, shape, *motion = motion
        images = fn.decoders.image_slice(encoded, start=start, shape=shape, axes=(0, 1), **how)  # uint8 of its own size
    else:
        images = fn.decoders.image(encoded, **how)  # uint8 [h, w, 3]; grey is spread
    if on_gpu and decoder == "cpu":
        images = images.gpu()
    if upright:
        first, last = motion
        images = fn.resize(images, size=whole, roi_start=first, roi_end=last, antialias=True)
    elif geometry.resizes:
        images = fn.resize(images, size=motion.pop(0) if sized else whole, antialias=True)
    if moves and not upright:
        # Outside the image is air, which every window shows black.
        images = fn.warp_affine(images, matrix=motion[0], size=whole, interp_type=types.INTERP_LINEAR, fill_value=0)
    if moves:
        images = fn.brightness_contrast(
            images, brightness_shift=brightness, contrast=contrast, contrast_center=127.5, dtype=types.FLOAT
        )
    return fn.crop_mirror_normalize(
        images,
        dtype=dtype,
        output_layout=layout,
        mean=[255 * m for m in MEAN],
        std=[255 * s for s in STD],
    )
