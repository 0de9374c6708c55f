"""Which part of a stored picture an augmented image shows, so that only that part is decoded and resized. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MARGIN = 4
"""Pixels of the network's grid around what an affine map reads: 1 for linear interpolation, 2 for the filter that
resizes before it, 1 for rounding."""


@dataclass(frozen=True)
class Regions:
    """One rectangle a sample, with the map that reads it.

    Attributes:
        start: int32 [b, 2], first row and column in the stored image.
        shape: int32 [b, 2], rows and columns of the stored image.
        resized: float32 [b, 2], rows and columns of the rectangle at the network's scale; whole numbers.
        affine: float32 [b, 2, 3], output to input pixel coordinates within the resized rectangle.
    """

    start: npt.NDArray[np.int32]
    shape: npt.NDArray[np.int32]
    resized: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float32]


def regions(affine: npt.NDArray[np.float32], stored: int, size: int) -> Regions:
    """The smallest rectangles that hold all that some maps read, with edges on pixel borders of both sizes.

    No map reads a pixel outside its rectangle, and the resized rectangle is the same part of the resized image. So
    decoding the part gives what decoding the whole would.

    Args:
        affine: float32 [b, 2, 3], output to input pixel coordinates (x, y) at `size`.
        stored: side of the stored image in pixels.
        size: side of the network's input in pixels.
    """
    cells = math.gcd(stored, size)  # the pixel borders that both sizes have divide a side into so many cells
    step = size // cells
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]], np.float32)
    read = np.einsum("bij,kj->bki", affine, corners)[:, :, ::-1]  # [b, 4, (y, x)]
    first = np.clip(np.floor((read.min(axis=1) - MARGIN) / step), 0, cells - 1).astype(np.int32)
    last = np.clip(np.ceil((read.max(axis=1) + MARGIN) / step), first + 1, cells).astype(np.int32)
    moved = affine.copy()
    moved[:, :, 2] -= (first * step)[:, ::-1]
    scale = stored // cells
    return Regions(first * scale, (last - first) * scale, ((last - first) * step).astype(np.float32), moved)


@dataclass(frozen=True)
class Crops:
    """Upright crops, flipped or not.

    Attributes:
        start: int32 [b, 2], first row and column of a rectangle of the stored image that holds all that is read.
        shape: int32 [b, 2], rows and columns of it.
        first: float32 [b, 2], row and column within it where the output begins.
        last: float32 [b, 2], where it ends; before `first` where the image is flipped.
    """

    start: npt.NDArray[np.int32]
    shape: npt.NDArray[np.int32]
    first: npt.NDArray[np.float32]
    last: npt.NDArray[np.float32]


def crops(affine: npt.NDArray[np.float32], stored: int, size: int, *, cut: bool) -> Crops:
    """The crops that some maps without rotation and transposition show.

    Args:
        affine: float32 [b, 2, 3], output to input pixel coordinates (x, y) at `size`.
        stored: side of the stored image in pixels.
        size: side of the network's input in pixels.
        cut: make the rectangles as small as they can be; otherwise each is the whole picture.

    Raises:
        ValueError: a map turns or transposes.
    """
    if affine[:, 0, 1].any() or affine[:, 1, 0].any():
        raise ValueError("a map that turns or transposes is no upright crop")
    scale = stored / size
    first = affine[:, ::-1, 2] * scale
    last = first + affine[:, [1, 0], [1, 0]] * stored
    start = np.zeros((len(affine), 2), np.int32)
    shape = np.full((len(affine), 2), stored, np.int32)
    if cut:
        reach = np.maximum(np.abs(last - first) / size, 1.0) + 1.0  # of the filter, in stored pixels
        start = np.clip(np.floor(np.minimum(first, last) - reach), 0, stored - 1).astype(np.int32)
        shape = np.clip(np.ceil(np.maximum(first, last) + reach), start + 1, stored).astype(np.int32) - start
    return Crops(start, shape, (first - start).astype(np.float32), (last - start).astype(np.float32))
