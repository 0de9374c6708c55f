"""Decodes known pictures as training does, measures how fast, and compares the pixels with libjpeg's."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hemodist.config.data import BatchConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig
from hemodist.doctor.utilisation import watched
from hemodist.loading.dali_pipeline import Batch
from hemodist.loading.evaluation_batches import grey_values, memory_batches

SIZE = 256
BATCH = 128
IMAGES = 2000

MOST, MEAN = 6.0, 0.75
"""How much decoders may differ at a pixel and on average, in grey values of 255. JPEG lets each round the inverse
cosine transform by a level a component (ITU-T T.83); the change of colours multiplies that by up to 1.77."""

WATCHED_SECONDS = 4.0
"""How long a GPU decodes: `nvidia-smi` takes one to start, and tells of the last second."""


@dataclass(frozen=True)
class Decoded:
    """What was measured on a device.

    Attributes:
        images_per_s: of `SIZE` pixels.
        most: largest difference from libjpeg's pixels, in grey values of 255.
        mean: difference from them on average.
        engine: busy percentages of the JPEG engine meanwhile; empty where there is none.
    """

    images_per_s: float
    most: float
    mean: float
    engine: tuple[float, ...] = ()

    @property
    def right(self) -> bool:
        """Whether the pixels are libjpeg's but for rounding."""
        return self.most <= MOST and self.mean <= MEAN


def measure(device: str) -> Decoded:
    """Decode `IMAGES` pictures on a device, `cpu` or a CUDA device, for the rate, and again to compare the pixels."""
    encoded = [_jpeg(2 * number) for number in range(BATCH)]
    made, start = 0, time.perf_counter()
    with watched(device) as seen:
        while not made or (device != "cpu" and time.perf_counter() - start < WATCHED_SECONDS):
            batches = _decoded(encoded, device)
            next(batches)  # also starts the decoder's threads
            begun = time.perf_counter()
            made = sum(len(batch.rows) for batch in batches)
            if device != "cpu":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - begun
    expected = np.stack([np.asarray(Image.open(io.BytesIO(content)), np.int16) for content in encoded])
    most, means = 0.0, []
    for batch in _decoded(encoded, device):
        off = np.abs(grey_values(batch.images) - expected[batch.rows % BATCH])
        most = max(most, float(off.max()))
        means.append(off.mean(dtype=np.float64) * len(batch.rows))
    return Decoded(made / seconds, most, sum(means) / IMAGES, tuple(seen.decoder))


def _decoded(encoded: list[bytes], device: str) -> Iterator[Batch]:
    run = Run("doctor", batch=BatchConfig(eval_batch_size=BATCH), model=replace(ModelConfig(), image_size=SIZE))
    sharding = {"size": SIZE, "windows": ["brain", "subdural", "soft_tissue"], "encoding": "jpeg"}
    pictures = (encoded * -(-IMAGES // BATCH))[:IMAGES]
    return memory_batches(pictures, sharding, run, torch.device(device))


def _jpeg(center: int) -> bytes:
    """A drawn picture, smooth and with edges, as the sharder stores pictures."""
    down, across = np.mgrid[:SIZE, :SIZE]
    drawn: npt.NDArray[np.float64] = np.stack([down, across, np.hypot(down - SIZE / 2, across - center)], axis=-1)
    encoded = io.BytesIO()
    Image.fromarray(np.clip(drawn, 0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=95, subsampling=0)
    return encoded.getvalue()
