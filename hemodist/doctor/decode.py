"""Decodes known pictures as training does, measures how fast, and compares the pixels with libjpeg's."""

from __future__ import annotations

import io
import time
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from hemodist.config.data import BatchConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig
from hemodist.loading.evaluation_batches import grey_values, memory_batches

SIZE = 256
BATCH = 32
BATCHES = 9

TOLERANCE = 4
"""How much decoders may differ at a pixel, in grey values of 255: JPEG does not prescribe how they round."""


def measure(device: str) -> tuple[float, int]:
    """Decode on a device.

    Args:
        device: `cpu` or a CUDA device.

    Returns:
        Images a second, and the largest difference from libjpeg's pixels, in grey values of 255.
    """
    run = Run("doctor", batch=BatchConfig(eval_batch_size=BATCH), model=replace(ModelConfig(), image_size=SIZE))
    encoded = [_jpeg(4 * number) for number in range(BATCH)]
    sharding = {"size": SIZE, "windows": ["brain", "subdural", "soft_tissue"], "encoding": "jpeg"}
    batches = memory_batches(encoded * BATCHES, sharding, run, torch.device(device))
    images = next(batches).images  # the first batch also starts the decoder's threads
    start = time.perf_counter()
    for _ in batches:
        pass
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    seconds = time.perf_counter() - start
    expected = np.stack([np.asarray(Image.open(io.BytesIO(content)), np.int16) for content in encoded])
    return BATCH * (BATCHES - 1) / seconds, int(np.abs(grey_values(images) - expected).max())


def _jpeg(center: int) -> bytes:
    """A drawn picture, smooth and with edges, as the sharder stores pictures."""
    down, across = np.mgrid[:SIZE, :SIZE]
    drawn = np.stack([down, across, np.hypot(down - SIZE / 2, across - center)], axis=-1)
    encoded = io.BytesIO()
    Image.fromarray(np.clip(drawn, 0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=95, subsampling=0)
    return encoded.getvalue()
