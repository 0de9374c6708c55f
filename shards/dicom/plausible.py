"""Whether an image's values can be HU at all. `check` names what nothing repairs: wrong signs, damage, coarse greys.

Damaged lossless streams, decoders that wrap and exports of greys pass every check of the header. The limits here are
far from what scanners make: bone is below 3000 HU, metal fills 1 to 2 % of the worst slices, streaks end near -2000 HU,
and neighbours that differ by more than 800 HU are edges between air and bone, at most 1 % of a real head's pixels.

A few rows and pixels decide that an image is in order; only a suspicious one is looked at as a whole.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from shards.dicom import stored_values
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

_SAMPLED = 8  # rows, and points along each side of a grid
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
    low, high = bounds[0] * slope + intercept, bounds[1] * slope + intercept
    if slope < 0:
        low, high = high, low
    if low < RANGE[0] or high > RANGE[1]:
        _check_range(stored, slope, intercept, form)
    if low >= 0:
        raise Fault(Reason.NO_AIR, f"{low:g} to {high:g} HU, no pixel below 0")
    if form.rows >= _MIN_SIDE <= form.columns:
        _check_jumps(stored, int(JUMP / abs(slope)), narrow=stored.dtype == np.int16 and bounds[1] - bounds[0] < 2**15)
    _check_steps(stored, slope, intercept)


def _check_range(stored: Stored, slope: float, intercept: float, form: PixelFormat) -> None:
    sample = stored[_rows(stored)]
    # Of the image the bounds may still hold padding that is air by now.
    low, high = (bound * slope + intercept for bound in stored_values.extremes(sample))
    if RANGE[0] <= min(low, high) and max(low, high) <= RANGE[1]:
        return
    for part in (sample, stored):  # Few images need a look at the whole.
        hu = part * np.float64(slope) + np.float64(intercept)
        lows, highs = hu[hu < RANGE[0]], hu[hu > RANGE[1]]
        most = MAX_EXTREME * hu.size
        fill = int(np.unique(lows, return_counts=True)[1].max()) if lows.size > most else 0
        extreme = lows.size + highs.size - fill
        if extreme <= most:
            return
    if not form.signed and form.stored == 16 and highs.size > most:
        signed = highs - 2.0**16 * slope
        if np.count_nonzero((signed >= 2 * RANGE[0]) & (signed < max(0.0, intercept))) > 0.9 * highs.size:
            raise Fault(
                Reason.SIGN_LOST,
                f"{highs.size / hu.size:.1%} of the pixels have {highs.min():g} to {highs.max():g} HU, with a sign "
                f"{signed.min():g} to {signed.max():g}",
            )
    raise Fault(
        Reason.SCRAMBLED,
        f"{hu.min():g} to {hu.max():g} HU, {extreme / hu.size:.1%} of the pixels beyond {RANGE[0]:g} to {RANGE[1]:g}; "
        f"{MAX_EXTREME:.0%} at most are metal",
    )


def _check_jumps(stored: Stored, limit: int, *, narrow: bool) -> None:
    rows = _rows(stored)
    following = slice(rows.start + 1, rows.stop + 1, rows.step)
    # Along the diagonal, so that jumps along rows and along columns both show.
    first, second = stored[rows, :-1], stored[following, 1:]
    if _jumps(second - first if narrow else second.astype(np.int32) - first, limit) <= MAX_JUMPS:
        return
    every = stored.astype(np.int32)
    found = max(_jumps(every[:, 1:] - every[:, :-1], limit), _jumps(every[1:] - every[:-1], limit))
    if found > MAX_JUMPS:
        raise Fault(
            Reason.SCRAMBLED,
            f"{found:.1%} of neighbouring pixels differ by more than {JUMP:g} HU; edges of bone and metal are a tenth "
            "of that",
        )


def _rows(stored: Stored) -> slice:
    """Some rows, all over the image and never the last one."""
    step = max(2, stored.shape[0] // _SAMPLED)
    return slice(step // 2, stored.shape[0] - 1, step)


def _jumps(apart: npt.NDArray[np.integer], limit: int) -> float:
    """Share of differences beyond a limit."""
    return int(np.count_nonzero(np.abs(apart, out=apart) > limit)) / max(1, apart.size)


def _check_steps(stored: Stored, slope: float, intercept: float) -> None:
    if abs(slope) > MAX_STEP:
        raise Fault(Reason.COARSE_GREYS, f"RescaleSlope {slope:g}: one grey step is so many HU, at most {MAX_STEP:g}")
    low, high = sorted((limit - intercept) / slope for limit in (-_TISSUE, _TISSUE))
    for side in (_SAMPLED, 4 * _SAMPLED):  # The finer grid is for small heads.
        down, across = max(1, stored.shape[0] * 2 // side), max(1, stored.shape[1] // side)
        sample = stored[down // 2 :: down, across // 2 :: across].ravel().tolist()
        first, step = None, 0
        for value in sample:  # More values never make a coarser step, so the first fine one decides.
            if low < value < high:
                first = value if first is None else first
                step = math.gcd(step, value - first)
                if 0 < step * abs(slope) <= MAX_STEP:
                    return
    if step == 0:  # One value at most: nothing to judge.
        return
    every = np.unique(stored)
    every = every[(every > low) & (every < high)].astype(np.int64)
    if every.size >= _MIN_LEVELS and (apart := int(np.gcd.reduce(every - every[0])) * abs(slope)) > MAX_STEP:
        raise Fault(Reason.COARSE_GREYS, f"all values are steps of {apart:g} HU apart, at most {MAX_STEP:g} are read")
