r"""How an image lies in the patient: its place, its spacing, and how its pixels get the standard orientation.

The standard of an axial slice is Image Orientation (Patient) `1\0\0\0\1\0` (PS3.3 C.7.6.2.1.1): columns run to the
patient's left, rows to the back. Slices are stored mirrored, upside down or on their side too, and after a scan of a
prone patient or feet first that is what the numbers say. Turning moves pixels and resamples nothing, so a tilted gantry
or head stays as tilted as it was.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from shards.dicom.reasons import Fault, Reason
from shards.dicom.stored_values import Stored

MAX_ANGLE = 45.0
"""Degrees between the normal of an axial slice and the patient's long axis. Gantries tilt by 30 at most."""

_MIN_UP = math.cos(math.radians(MAX_ANGLE)) - 1e-6
_SPACINGS = (1e-3, 100.0)  # mm; a head is 200 mm wide, and a detector's cell about 0.5
_MAX_POSITION = 1e5  # mm; tables move by 2000
_MAX_NORMAL_ERROR = 0.1  # The worst files round cosines to two digits.


class Placement(NamedTuple):
    """Where an image lies, once its pixels are `turned`.

    Attributes:
        spacing: mm between rows and between columns, 0.001 to 100; None where the file says none or an absurd one.
        position: mm along the slice's normal, which points to the patient's head, 100,000 at most; None where the file
            says none or an absurd one.
        transposed: whether rows and columns are exchanged first.
        down: -1 where the rows are then reversed, else 1.
        right: -1 where the columns are then reversed, else 1.
    """

    spacing: tuple[float, float] | None
    position: float | None
    transposed: bool = False
    down: int = 1
    right: int = 1

    def turned(self, stored: Stored) -> Stored:
        """The pixels in the standard orientation, [rows, columns] in C order; the array itself where they have it."""
        if not self.transposed and self.down == self.right == 1:
            return stored
        return np.ascontiguousarray((stored.T if self.transposed else stored)[:: self.down, :: self.right])


def place(
    spacing: tuple[float, ...] | None, origin: tuple[float, ...] | None, axes: tuple[float, ...] | None
) -> Placement:
    """Where an image lies.

    Args:
        spacing: Pixel Spacing (0028,0030), mm.
        origin: Image Position (Patient) (0020,0032), mm.
        axes: Image Orientation (Patient) (0020,0037): direction cosines along a row, then along a column. Where they
            are missing or damaged (not at a right angle) the image is taken for a standard one without a position.

    Raises:
        Fault: the image is not axial.
    """
    sides = _sides(spacing)
    if axes is None:
        return Placement(sides, None)
    a, b, c, d, e, f = axes
    right, back, up = b * f - c * e, c * d - a * f, a * e - b * d
    length = math.hypot(right, back, up)
    if not abs(length - 1) <= _MAX_NORMAL_ERROR:  # false for NaN
        return Placement(sides, None)
    if abs(up) < _MIN_UP * length:
        angle = math.degrees(math.acos(abs(up) / length))
        raise Fault(
            Reason.NOT_AXIAL,
            f"the normal is {angle:.0f} degrees off the patient's long axis; axial is up to {MAX_ANGLE:g}",
        )
    position = None
    if origin is not None:
        x, y, z = origin
        along = math.copysign(1.0, up) * (x * right + y * back + z * up)
        position = along if abs(along) <= _MAX_POSITION else None
    if abs(b) + abs(d) > abs(a) + abs(e):  # Rows run to the back, columns to the side.
        turned = None if sides is None else (sides[1], sides[0])
        return Placement(turned, position, True, -1 if b < 0 else 1, -1 if d < 0 else 1)
    return Placement(sides, position, False, -1 if e < 0 else 1, -1 if a < 0 else 1)


def _sides(spacing: tuple[float, ...] | None) -> tuple[float, float] | None:
    """Spacing of rows and columns in mm; None where no scanner has such pixels: no later step divides by 0."""
    if spacing is None or not _SPACINGS[0] <= min(spacing) <= max(spacing) <= _SPACINGS[1]:
        return None
    return spacing[0], spacing[1]
