"""Augmentation that belongs to the sample, not to the worker. Pure and vectorised.

Crop, flips, transposition, rotation, brightness and contrast are drawn from Philox keyed by (seed, epoch, row of the
index), so a sample looks the same in an epoch whoever reads it. The geometry of one sample is one affine map, so its
pixels are interpolated once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hemodist.config.data import AugmentConfig
from hemodist.plan.philox import Purpose, uniform, words

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """One draw a sample.

    Attributes:
        affine: float32 [b, 2, 3]; maps output coordinates (x, y) to input coordinates, both in units of the image's
            side, 0 to 1 from edge to edge.
        brightness: float32 [b]; added, in units of the window's width.
        contrast: float32 [b]; factor about the window's center.
    """

    affine: Floats
    brightness: Floats
    contrast: Floats


def draw_augmentation(
    config: AugmentConfig,
    seed: int,
    epochs: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    repeats: npt.NDArray[np.int64] | int = 0,
) -> Augmentation:
    """Draw the augmentation of each sample.

    Args:
        config: strengths.
        seed: of the run.
        epochs: int64 [b], the epoch that each sample is read for.
        rows: int64 [b], its row in the index.
        repeats: int64 [b], how often the epoch has read it before, so that a sample that is drawn again looks new.
    """
    drawn = [words(seed, Purpose.AUGMENT, rows, epochs, repeats, block=block) for block in range(3)]
    u = uniform(np.concatenate(drawn, axis=1))
    # A square crop of a share of the area, placed anywhere inside the image.
    side = np.sqrt(config.min_crop_area + (1.0 - config.min_crop_area) * u[:, 0])
    left, top = u[:, 1] * (1.0 - side), u[:, 2] * (1.0 - side)
    flip_x = np.where(u[:, 3] < config.flip_horizontal, -1.0, 1.0)
    flip_y = np.where(u[:, 4] < config.flip_vertical, -1.0, 1.0)
    swap = u[:, 5] < config.transpose
    angle = np.deg2rad(config.rotation_degrees) * (2.0 * u[:, 6] - 1.0)
    # About the crop's center: rotation and scale after flips after transposition.
    linear = np.empty((len(rows), 2, 2))
    linear[:, 0, 0], linear[:, 0, 1] = np.cos(angle), -np.sin(angle)
    linear[:, 1, 0], linear[:, 1, 1] = np.sin(angle), np.cos(angle)
    linear *= side[:, None, None] * np.stack([flip_x, flip_y], axis=1)[:, None, :]
    linear = np.where(swap[:, None, None], linear[:, :, ::-1], linear)
    center = np.stack([left + side / 2, top + side / 2], axis=1)
    shift = center - linear @ np.array([0.5, 0.5])
    return Augmentation(
        affine=np.concatenate([linear, shift[:, :, None]], axis=2).astype(np.float32),
        brightness=(config.brightness * (2.0 * u[:, 7] - 1.0)).astype(np.float32),
        contrast=(1.0 + config.contrast * (2.0 * u[:, 8] - 1.0)).astype(np.float32),
    )
