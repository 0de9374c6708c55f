"""Geometry of a slice: square pixels, the square around the head, resampling by area; and the share of brain.

All but the last step (`to_hu`) is integer arithmetic on stored values, so that no result depends on the CPU or on a
linear-algebra library. Resampling by area is linear. So it may run on stored values: rescaling its result gives the
same HU as resampling HU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

NARROW = (-(2**13), 2**13 - 1)
"""Smallest and largest value of a narrow image. As HU they reach beyond titanium, and four add up in 16 bits."""

BRAIN_RANGE = (0.0, 80.0)
"""HU counted as brain (Howard's selection: slices with under 2 % of their pixels in this range show no brain)."""

HEAD_THRESHOLD = -200.0
"""HU above which a pixel belongs to something solid; fat is -100, foam of a head rest below -700."""

HEAD_STEP = 4
"""The head is looked for on a grid of this many pixels; finer adds time and no accuracy that matters."""

HEAD_MARGIN = 0.02
"""Border around the found head, as a share of its longer side, so that no skin is lost to the coarse grid."""

MAX_ASPECT_ERROR = 0.01
"""Pixels count as square up to this error of the ratio of their sides: two or three pixels over a head."""

MAX_ASPECT = 4.0
"""A larger ratio is taken for a mistake in the header, and the pixels are left as they are."""


@dataclass(frozen=True)
class Box:
    """A square of source pixels; it may reach beyond the image, where there is air.

    Attributes:
        top: first row.
        left: first column.
        side: rows and columns.
    """

    top: int
    left: int
    side: int


def full_box(rows: int, columns: int) -> Box:
    """The smallest square that holds the whole image, the image in its middle."""
    side = max(rows, columns)
    return Box(-((side - rows) // 2), -((side - columns) // 2), side)


def head_box(stored: npt.NDArray[np.integer], slope: float, intercept: float) -> Box:
    """The square around the largest solid thing in the image; the whole image where there is none.

    Args:
        stored: stored values [rows, columns].
        slope: HU a stored unit.
        intercept: HU of stored value 0.
    """
    coarse = stored[HEAD_STEP // 2 :: HEAD_STEP, HEAD_STEP // 2 :: HEAD_STEP]
    # Erosion parts the head from a table or a head rest that touches it by a thin bridge.
    solid = ndimage.binary_erosion(coarse * slope + intercept > HEAD_THRESHOLD)
    parts, count = ndimage.label(solid)
    if count == 0:
        return full_box(*stored.shape)
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    down, across = ndimage.find_objects(parts, largest)[largest - 1]
    # One cell of erosion and up to one of sampling on either side.
    top, bottom = (down.start - 2) * HEAD_STEP, (down.stop + 2) * HEAD_STEP
    left, right = (across.start - 2) * HEAD_STEP, (across.stop + 2) * HEAD_STEP
    side = math.ceil(max(bottom - top, right - left) * (1 + 2 * HEAD_MARGIN))
    if side >= max(stored.shape):
        return full_box(*stored.shape)
    return Box((top + bottom - side) // 2, (left + right - side) // 2, side)


def square_pixels(stored: npt.NDArray[np.integer], spacing: tuple[float, float]) -> npt.NDArray[np.integer]:
    """The image with square pixels, so that no head is distorted. RSNA's slices have such pixels and stay as they are.

    The finer direction is averaged to the spacing of the coarser one: no pixel is invented, and no image grows.

    Args:
        stored: stored values [rows, columns].
        spacing: mm between rows and between columns (PS3.3 10.7.1.1).

    Returns:
        Integers [rows, columns], with fewer rows or fewer columns; means are rounded to whole stored units.
    """
    aspect = spacing[0] / spacing[1]
    if max(aspect, 1 / aspect) <= 1 + MAX_ASPECT_ERROR or max(aspect, 1 / aspect) > MAX_ASPECT:
        return stored
    if aspect > 1:
        return np.ascontiguousarray(square_pixels(stored.T, (spacing[1], spacing[0])).T)
    rows = stored.shape[0]
    sums = _area(stored, max(1, round(rows * aspect)))
    means: npt.NDArray[np.int32] = ((2 * sums + rows) // (2 * rows)).astype(np.int32)
    return means


def cut(stored: npt.NDArray[np.integer], box: Box, air: int) -> npt.NDArray[np.integer]:
    """The pixels of a box, integers [side, side]; `air` where the box reaches beyond the image."""
    rows, columns = stored.shape
    if (box.top, box.left, box.side) == (0, 0, rows) and rows == columns:
        return stored
    out = np.full((box.side, box.side), air, np.int32)
    top, bottom = max(box.top, 0), min(box.top + box.side, rows)
    left, right = max(box.left, 0), min(box.left + box.side, columns)
    if top < bottom and left < right:
        target = out[top - box.top : bottom - box.top, left - box.left : right - box.left]
        target[...] = stored[top:bottom, left:right]
    return out


def resample(square: npt.NDArray[np.integer], size: int) -> tuple[npt.NDArray[np.int32 | np.int64], int]:
    """Resample by area: each output pixel is the mean over the part of the source that it covers.

    Args:
        square: integers of 32 bits or fewer [side, side].
        size: rows and columns of the result, above or below `side`.

    Returns:
        Exact sums, integers [size, size], and the number by which they are to be divided to give means.
    """
    side = square.shape[0]
    if side % size == 0:
        factor = side // size
        # Where the sums fit into 32 bits there is half the memory to touch. They need not: air of an odd rescale.
        largest = max(-int(square.min()), int(square.max()))
        kind = np.int32 if largest * factor * factor < 2**31 else np.int64
        rows = _add(square, factor, 0, kind)
        return _add(rows, factor, 1, kind), factor * factor
    return _area(_area(square, size).T, size).T, side * side


def to_hu(sums: npt.NDArray[np.integer], divisor: int, slope: float, intercept: float) -> npt.NDArray[np.float64]:
    """HU of resampled stored values, float64 [size, size]: one division, one product, one sum a pixel."""
    hu = sums / np.float64(divisor)
    hu *= slope
    hu += intercept
    return hu


def narrow(stored: npt.NDArray[np.integer], bounds: tuple[int, int]) -> npt.NDArray[np.int16] | None:
    """The stored values in 16 bits, each in `NARROW`; None where they do not fit.

    Args:
        stored: integers of 32 bits or fewer [rows, columns].
        bounds: no value is below the first or above the second.
    """
    if bounds[0] < NARROW[0] or bounds[1] > NARROW[1]:
        bounds = (int(stored.min()), int(stored.max()))  # The given ones may still hold padding that is air by now.
    if bounds[0] < NARROW[0] or bounds[1] > NARROW[1]:
        return None
    return stored.view(np.int16) if stored.itemsize == 2 else stored.astype(np.int16)


def sums_of_four(image: npt.NDArray[np.int16]) -> npt.NDArray[np.uint32]:
    """Resample to half the size: the 16 bits of the sums of 2 x 2 narrow values, uint32 [rows / 2, columns / 2]."""
    rows = image[0::2] + image[1::2]
    # Neighbours lie in the two halves of 32 bits; shifted up and added, the upper half holds their sum. Adding every
    # second column takes 36 us instead of 24, 2 % of the sharder's time.
    pairs = rows.view(np.uint32)
    sums = pairs << np.uint32(16)
    sums += pairs
    sums >>= np.uint32(16)
    return sums


def brain_fraction(stored: npt.NDArray[np.integer], slope: float, intercept: float) -> float:
    """Share of the pixels with 0 to 80 HU, both included."""
    low, high = sorted((value - intercept) / slope for value in BRAIN_RANGE)
    below, up_to = np.count_nonzero(stored < math.ceil(low)), np.count_nonzero(stored <= math.floor(high))
    return (up_to - below) / stored.size


def _add(values: npt.NDArray[Any], factor: int, axis: int, kind: type[np.integer]) -> npt.NDArray[Any]:
    """Sums of `factor` neighbours each along an axis, of type `kind`."""
    every = [values[start::factor] if axis == 0 else values[:, start::factor] for start in range(factor)]
    if factor == 1:
        return every[0].astype(kind)
    sums: npt.NDArray[Any] = np.add(every[0], every[1], dtype=kind)
    for following in every[2:]:
        sums += following
    return sums


def _area(values: npt.NDArray[np.integer], size: int) -> npt.NDArray[np.int64]:
    """Resample the rows, int64 [size, columns]: output pixel k covers k * side / size to (k + 1) * side / size.

    In units of 1 / size of a source pixel all borders are whole numbers, and so are the weights; they add up to the
    side for each output pixel. The integral of the source up to a border is the sum of the whole pixels before it
    plus the covered part of the next.
    """
    side, columns = values.shape
    before = np.zeros((side + 1, columns), np.int64)
    np.cumsum(values, axis=0, dtype=np.int64, out=before[1:])
    whole, part = np.divmod(np.arange(size + 1) * side, size)
    following = values[np.minimum(whole, side - 1)].astype(np.int64)
    integral = before[whole] * size + following * part[:, None]
    sums: npt.NDArray[np.int64] = np.diff(integral, axis=0)
    return sums
