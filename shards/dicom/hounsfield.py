"""The Hounsfield scale of stored values."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

AIR = -1000.0
"""HU of air, by the definition of the Hounsfield scale."""


def air_value(slope: float, intercept: float) -> int:
    """The stored integer nearest to -1000 HU.

    >>> air_value(1.0, -1024.0)
    24
    """
    return round((AIR - intercept) / slope)


def in_hounsfield(
    stored: npt.NDArray[np.integer], slope: float, intercept: float, bounds: tuple[int, int]
) -> tuple[npt.NDArray[np.integer], float, float, tuple[int, int]]:
    """The image as int16 HU where all are whole numbers that fit; unchanged where not.

    Args:
        stored: integers of 32 bits or fewer [rows, columns].
        slope: HU a stored unit.
        intercept: HU of stored value 0.
        bounds: no stored value is below the first or above the second.

    Returns:
        Stored values, slope, intercept and bounds such that HU = stored x slope + intercept, with the same HU.
    """
    if not (slope.is_integer() and intercept.is_integer()):
        return stored, slope, intercept, bounds
    factor, offset = int(slope), int(intercept)
    low, high = sorted(value * factor + offset for value in bounds)
    if low < -(2**15) or high >= 2**15:
        return stored, slope, intercept, bounds
    # All results fit, so steps that wrap around 16 bits come back into place.
    values = stored.view(np.uint16) if stored.itemsize == 2 else stored.astype(np.uint16)
    if factor != 1:
        values = values * np.uint16(factor % 2**16)
    if offset:
        values = values + np.uint16(offset % 2**16)
    return values.view(np.int16), 1.0, 0.0, (low, high)
