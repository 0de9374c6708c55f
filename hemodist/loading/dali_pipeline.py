"""From rows of the index to tensors: checked bytes, DALI's decoding and geometry, zero-copy into torch.

A stateless callable of the iteration number hands DALI the encoded images and one affine map each; DALI decodes
(`mixed` on a GPU, `cpu` otherwise), moves the pixels once, and normalises. One code path serves both devices.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, pipeline_def, types

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import UNKNOWN
from hemodist.dataset.manifest import DatasetError
from hemodist.errors import ConfigError
from hemodist.loading.regions import crops, regions
from hemodist.loading.sample_reader import Reader
from hemodist.plan.order import Ahead

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, in units of the full range: what torchvision's networks and their weights expect."""


Decoder = Literal["auto", "cpu", "mixed"]

DTYPES = {torch.float32: types.FLOAT, torch.float16: types.FLOAT16, torch.bfloat16: types.FLOAT}
"""What DALI makes for each type of image; it has no bfloat16 of its own."""

REGIONS_PAY_FROM = 512
"""Side of the stored images, in pixels, from which decoding a part is worth it on a CPU."""


@dataclass(frozen=True)
class Request:
    """What one batch consists of.

    Attributes:
        rows: int64 [b], rows of the index.
        affine: float32 [b, 2, 3], output to input pixel coordinates at the network's size, centers at half-integers;
            None where every map is the identity, brightness and contrast included.
        brightness: float32 [b], added, in units of the full range; None for 0.
        contrast: float32 [b], factor about the middle of the range; None for 1.
        ahead: the shards needed from here on; None where nobody knows, and then all stay open that were.
        epoch: that the global batch begins in.
        position: in that epoch of the global batch's first sample.
    """

    rows: Ints
    affine: Floats | None = None
    brightness: Floats | None = None
    contrast: Floats | None = None
    ahead: Ahead | None = None
    epoch: int = 0
    position: int = 0


@dataclass(frozen=True)
class Batch:
    """What the network gets.

    Attributes:
        images: [b, 3, h, w] of the loader's dtype on its device, normalised; by default channels last in memory, which
            convolutions read faster, on CPUs too.
        targets: float32 [b, 6] on the same device; NaN where a label is unknown.
        weights: float32 [b] on the same device; 0 for a corrupt sample that was masked out, else 1.
        rows: int64 [b], rows of the index.
        number: of the batch in its stream; in training the global step.
        keys: of the samples, their names in the shards; empty where the index has none.
        epoch: that the global batch begins in.
        position: in that epoch of the global batch's first sample.
    """

    images: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    rows: Ints
    number: int
    keys: tuple[str, ...] = ()
    epoch: int = 0
    position: int = 0


class Loader:
    """An iterable over the batches `start`, `start` + 1, ..., `stop` - 1 of a stream.

    `hemodist.loading.training_loader` makes one of a data set's URI; this class takes any requests.

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
        decoder: Decoder = "auto",
        upright: bool = False,
        regions_only: bool | None = None,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
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
            device: `cpu`, or a CUDA device to transform on.
            threads: DALI's CPU threads; no more than one beyond the CPUs that this process may use.
            prefetch: batches prepared ahead.
            decoder: `cpu`; `mixed`, which decodes on the GPU; or `auto`, which is `mixed` on a CUDA device.
            upright: nothing is turned or transposed, so that a crop is one resize of a part of the stored image, which
                is sharper and takes half the time of the map.
            regions_only: decode only what an augmented image shows; the pixels are the same up to a grey level. None
                where it pays: on the CPU, for images of `REGIONS_PAY_FROM` pixels.
            dtype: of the images: float32, float16 or bfloat16.
            channels_last: pixels interleaved in memory (NHWC), as DALI makes them, or planes (NCHW).

        Raises:
            ConfigError: dtype or decoder cannot be had.
            DatasetError: the images have neither one window nor three.
        """
        self._device = torch.device(device)
        on_gpu = self._device.type == "cuda"
        if self._device == torch.device("cuda"):  # DALI and PyTorch must mean the same one
            self._device = torch.device("cuda", torch.cuda.current_device())
        if decoder == "mixed" and not on_gpu:
            raise ConfigError(f"data.decoder mixed decodes on a GPU, but the device is {device}; use auto or cpu")
        if dtype not in DTYPES:
            raise ConfigError(f"images cannot be {dtype}; use one of {', '.join(map(str, DTYPES))}")
        if (windows := len(dataset.manifest.config["windows"])) not in (1, 3):
            raise DatasetError(f"{dataset.store.uri} has images of {windows} windows; shard again with one or three")
        self._keys = dataset.index.column("key") if "key" in dataset.index.column_names else None
        self._labels = dataset.labels()
        self._reader = reader
        self._request_at = request_at
        self._start, self._stop = start, stop
        self._given: dict[int, Request] = {}  # what DALI has been given and what has not come out
        self._dtype = dtype
        self._channels_last = channels_last
        self._stored, self._size = int(dataset.manifest.config["size"]), image_size
        # One pipeline serves a whole stream, so whether pixels move is asked of its first batch.
        moves = start < stop and request_at(start).affine is not None
        decodes_on_cpu = decoder == "cpu" or not on_gpu
        if regions_only is None:
            regions_only = decodes_on_cpu and self._stored >= REGIONS_PAY_FROM
        self._upright, self._regions_only = moves and upright, moves and regions_only
        self._pipeline = _pipeline(
            source=self._source,
            stored_size=self._stored,
            image_size=image_size,
            moves=moves,
            upright=self._upright,
            regions_only=self._regions_only,
            decoder="cpu" if decodes_on_cpu else "mixed",
            on_gpu=on_gpu,
            dtype=DTYPES[dtype],
            layout="HWC" if channels_last else "CHW",
            batch_size=max_batch,
            # One more than CPUs: a thread sleeps whenever batches that Python hands over end or begin (14 % on 2 CPUs).
            num_threads=max(1, min(threads, len(os.sched_getaffinity(0)) + 1)),
            device_id=self._device.index if on_gpu else None,
            prefetch_queue_depth=prefetch,
            exec_dynamic=True,  # outputs live as long as somebody holds them, so torch may keep them without a copy
        )
        self._pipeline.build()

    def _source(self, iteration: int) -> tuple[Any, ...]:
        number = self._start + iteration
        if number >= self._stop:
            raise StopIteration
        request = self._request_at(number)
        self._given[number] = request
        self._reader.follow(request.ahead)
        encoded = [self._reader.read(int(row)) for row in request.rows]
        if request.affine is None:
            return (encoded,)
        samples = len(request.rows)
        brightness = np.zeros(samples, np.float32) if request.brightness is None else request.brightness
        contrast = np.ones(samples, np.float32) if request.contrast is None else request.contrast
        # DALI takes the shift in units of its output, which is float here: full range 1, not 255.
        light = 255 * brightness, contrast
        if self._upright:
            crop = crops(request.affine, self._stored, self._size, cut=self._regions_only)
            part = (crop.start, crop.shape) if self._regions_only else ()
            return encoded, *light, *part, crop.first, crop.last
        if not self._regions_only:
            return encoded, *light, request.affine
        cut = regions(request.affine, self._stored, self._size)
        resized = () if self._stored == self._size else (cut.resized,)
        return encoded, *light, cut.start, cut.shape, *resized, cut.affine

    def close(self) -> None:
        """Free DALI's threads and buffers now, not when Python's collector comes by; batches in use stay."""
        del self._pipeline

    def __iter__(self) -> Iterator[Batch]:
        """Run the stream once."""
        for number in range(self._start, self._stop):
            (output,) = self._pipeline.run()
            request = self._given.pop(number)
            labels = self._labels[request.rows]
            targets = np.where(labels == UNKNOWN, np.float32(np.nan), labels).astype(np.float32)
            weights = np.array([row not in self._reader.corrupt for row in request.rows.tolist()], np.float32)
            images = torch.utils.dlpack.from_dlpack(output.as_tensor()).to(self._dtype)  # a copy for bfloat16 only
            yield Batch(
                images=images.permute(0, 3, 1, 2) if self._channels_last else images,
                targets=torch.from_numpy(targets).to(self._device, non_blocking=True),
                weights=torch.from_numpy(weights).to(self._device, non_blocking=True),
                rows=request.rows,
                number=number,
                keys=() if self._keys is None else tuple(self._keys.take(request.rows).to_pylist()),
                epoch=request.epoch,
                position=request.position,
            )


@pipeline_def  # type: ignore[untyped-decorator]
def _pipeline(
    source: Callable[[int], tuple[Any, ...]],
    stored_size: int,
    image_size: int,
    moves: bool,
    upright: bool,
    regions_only: bool,
    decoder: str,
    on_gpu: bool,
    dtype: Any,
    layout: str,
) -> Any:
    resizes = stored_size != image_size
    sized = regions_only and resizes and not upright  # a part is as large as it happens to be
    outputs = 1 + 3 * moves + upright + 2 * regions_only + sized
    encoded, *motion = fn.external_source(source=source, num_outputs=outputs, batch=True)
    whole = [image_size, image_size]
    if moves:
        brightness, contrast, *motion = motion
    if regions_only:
        start, shape, *motion = motion
        # uint8 [h, w, 3] of a sample's own height and width
        images = fn.decoders.image_slice(
            encoded, start=start, shape=shape, axes=(0, 1), device=decoder, output_type=types.RGB
        )
    else:
        images = fn.decoders.image(encoded, device=decoder, output_type=types.RGB)  # uint8 [h, w, 3]; grey is spread
    if on_gpu and decoder == "cpu":
        images = images.gpu()
    if upright:
        first, last = motion
        images = fn.resize(images, size=whole, roi_start=first, roi_end=last, antialias=True)
    elif resizes:
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
