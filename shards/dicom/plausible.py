"""Whether an image's values can be HU at all. `check` names what nothing repairs: wrong signs, damage, coarse greys.

Damaged lossless streams, decoders that wrap and exports of greys pass every check of the header. The limits here are
far from what scanners make: bone is below 3000 HU, metal fills 1 to 2 % of the worst slices, streaks end near -2000 HU,
and neighbours that differ by more than 800 HU are edges between air and bone, at most 1 % of a real head's pixels.

A few rows and pixels decide that an image is in order; only a suspicious one is looked at as a whole.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.dicom.reasons import Fault, Reason
from shards.dicom.stored_values import PixelFormat, Stored

RANGE = (-2048.0, 8191.0)
"""HU. Beyond it lie fill values that no element declares, and metal of an extended scale."""

MAX_EXTREME = 0.02
"""Largest share of pixels beyond `RANGE`, the commonest low value, which is a fill, not counted."""

JUMP = 800.0
"""HU between neighbours."""

MAX_JUMPS = 0.15
"""Largest share of jumps along rows or along columns. Noise of 400 HU all over a head makes 6 %."""

MAX_STEP = 10.0
"""HU. Coarser greys leave fewer than eight levels to the brain window of 80 HU."""

_SAMPLED = 16  # rows, and points along each side of a grid
_MIN_SIDE = 64  # In smaller images edges are a large share.
_TISSUE = 900.0  # HU; steps are judged between minus and plus this, where neither fill nor clipping is
_MIN_LEVELS = 5  # different values; of fewer nobody can tell the step


def check(stored: Stored, slope: float, intercept: float, bounds: tuple[int, int], form: PixelFormat) -> None:
    """Check that an image's values can be HU.

    Args:
        stored: integers of 32 bits or fewer [rows, columns], after all repairs, `HU = stored * slope + intercept`.
        slope: HU a stored unit.
        intercept: HU of stored value 0.
        bounds: no value is below the first or above the second.
        form: how the file says that the pixels are stored.

    Raises:
        Fault: they cannot.
    """
    low, high = sorted(bound * slope + intercept for bound in bounds)
    if low < RANGE[0] or high > RANGE[1]:
        whole = slope == 1 and intercept == 0
        _check_range(stored if whole else stored * slope + intercept, slope, intercept, form)
    if low >= 0:
        raise Fault(Reason.NO_AIR, f"{low:g} to {high:g} HU, no pixel below 0")
    if min(stored.shape) >= _MIN_SIDE:
        _check_jumps(stored, JUMP / abs(slope))
    _check_steps(stored, slope, intercept)


def _check_range(hu: npt.NDArray[Any], slope: float, intercept: float, form: PixelFormat) -> None:
    beyond = hu[(hu < RANGE[0]) | (hu > RANGE[1])]
    most = MAX_EXTREME * hu.size
    if beyond.size <= most:
        return
    lows, highs = beyond[beyond < RANGE[0]], beyond[beyond > RANGE[1]]
    wrapped = highs - 2.0**16 * slope
    if not form.signed and form.stored == 16 and highs.size > most:
        negative = np.count_nonzero((wrapped >= 2 * RANGE[0]) & (wrapped < max(0.0, intercept)))
        if negative > 0.9 * highs.size:
            raise Fault(
                Reason.SIGN_LOST,
                f"{highs.size / hu.size:.1%} of the pixels have {highs.min():g} to {highs.max():g} HU, with a sign "
                f"{wrapped.min():g} to {wrapped.max():g}",
            )
    fill = int(np.unique(lows, return_counts=True)[1].max()) if lows.size else 0
    if (extreme := beyond.size - fill) > most:
        raise Fault(
            Reason.SCRAMBLED,
            f"{hu.min():g} to {hu.max():g} HU, {extreme / hu.size:.1%} of the pixels beyond {RANGE[0]:g} to "
            f"{RANGE[1]:g}; {MAX_EXTREME:.0%} at most are metal",
        )


def _check_jumps(stored: Stored, limit: float) -> None:
    step = stored.shape[0] // _SAMPLED
    start = step // 2
    rows = slice(start, start + step * (_SAMPLED - 1) + 1, step)
    below = slice(rows.start + 1, rows.stop + 1, step)
    sample = stored[rows].astype(np.int32)
    if max(_jumps(sample[:, 1:], sample[:, :-1], limit), _jumps(sample, stored[below], limit)) <= MAX_JUMPS:
        return
    every = stored.astype(np.int32)
    found = max(_jumps(every[:, 1:], every[:, :-1], limit), _jumps(every[1:], every[:-1], limit))
    if found > MAX_JUMPS:
        raise Fault(
            Reason.SCRAMBLED,
            f"{found:.1%} of neighbouring pixels differ by more than {JUMP:g} HU; edges of bone and metal are a tenth "
            "of that",
        )


def _jumps(first: npt.NDArray[np.int32], second: Stored, limit: float) -> float:
    """Share of pixels that differ by more than a limit, in stored units."""
    apart = first - second
    return float(np.count_nonzero(np.abs(apart, out=apart) > limit)) / apart.size


def _check_steps(stored: Stored, slope: float, intercept: float) -> None:
    if abs(slope) > MAX_STEP:
        raise Fault(
            Reason.COARSE_GREYS, f"RescaleSlope is {slope:g}: one grey step is so many HU, at most {MAX_STEP:g}"
        )
    low, high = sorted((limit - intercept) / slope for limit in (-_TISSUE, _TISSUE))
    down, across = (max(1, side // _SAMPLED) for side in stored.shape)
    values = [
        value for value in stored[down // 2 :: down, across // 2 :: across].ravel().tolist() if low < value < high
    ]
    if not values or 0 < math.gcd(*(value - values[0] for value in values)) * abs(slope) <= MAX_STEP:
        return
    every = np.unique(stored)
    every = every[(every > low) & (every < high)].astype(np.int64)
    if every.size >= _MIN_LEVELS and (step := int(np.gcd.reduce(every - every[0])) * abs(slope)) > MAX_STEP:
        raise Fault(
            Reason.COARSE_GREYS, f"all values are multiples of {step:g} HU apart, at most {MAX_STEP:g} are accepted"
        )
