"""From stored values to Hounsfield units (HU): `repaired` undoes every known fault of the values, in a fixed order.

A file says that `HU = stored * slope + intercept` (PS3.3 C.11.1.1.2). For some files that is wrong until a repair is
made. `repaired` finds the padding, turns inverted values round (MONOCHROME1), unwraps RSNA's 12-bit values, and then
writes air over the padding. Whole numbers of HU become int16, with slope 1 and intercept 0: all later steps are fastest
on these.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from shards.dicom import padding, plausible, stored_values
from shards.dicom.image_header import ImageHeader
from shards.dicom.padding import Mask
from shards.dicom.reasons import Fault, Reason
from shards.dicom.stored_values import PixelFormat, Stored

AIR = -1000.0
"""HU of air, by the definition of the Hounsfield scale."""

RSNA_MODULUS = 4096
"""2 to the 12: the values of RSNA's faulty files wrapped around when they were written."""

RSNA_SHIFT = 1024
"""HU; what is added before the wrap is undone (`HU = ((raw + 1024) mod 4096) - 1024`).

12 bits hold HU modulo 4096, so one may choose which 4096 HU in a row they stand for. CT of 12 bits holds -1024 to 3071:
stored values of 0 to 4095 with the usual intercept of -1024. Only this choice gives each of them back. The widely used
shift of 1000 (-1000 to 3095) is wrong for raw values of 3072 to 3095: such a file cannot hold bone of 3072 HU and more,
and does hold air of -1001 to -1024 HU, since noise puts half of all air below -1000. It makes white specks of that air.
For all other raw values both shifts are the same.
"""

_LOOKS = ((16, 0.25), (5, 0.05), (1, 0.0))
"""Of rows and of columns every so manyth is looked at, and a lead of so large a share of these pixels decides."""

_LEAD_OF_ANOTHER = 0.05  # share of the pixels

RSNA_INTERCEPT = -100
"""HU. A file with an intercept above this holds HU already. Unsigned values cannot be negative HU, so they wrapped."""


def repaired(
    cells: npt.NDArray[np.integer], form: PixelFormat, header: ImageHeader
) -> tuple[Stored, float, float, tuple[int, int], bool | None]:
    """Undo the known faults of an image's values.

    Args:
        cells: the cells as stored or decoded [rows, columns].
        form: the format that the cells really have.
        header: what the file says of the image.

    Returns:
        The first five fields of `shards.dicom.read.Slice`: stored values, slope, intercept, bounds and inverted.

    Raises:
        Fault: the image is constant, or no image of HU.
    """
    slope, intercept = header.slope, header.intercept
    given, bounds = stored_values.from_cells(cells, form)
    mask = None if header.padding is None else padding.mask(header.padding, cells, given, form, bounds)
    # The software that made the faults used BitsStored, however many bits the codestream has.
    written = form if form is header.form else dataclasses.replace(form, stored=header.form.stored)
    wrapped, inverted = given, None
    if header.inverted:
        wrapped, bounds = undo_inversion(given, written, slope, intercept, mask, bounds)
        inverted = wrapped is not given
    stored, slope, intercept = undo_rsna_fault(wrapped, written, slope, intercept)
    if stored is not wrapped and bounds[1] >= RSNA_MODULUS - RSNA_SHIFT:
        bounds = -RSNA_SHIFT, RSNA_MODULUS - RSNA_SHIFT - 1
    stored, slope, intercept, bounds = in_hounsfield(stored, slope, intercept, bounds)
    if mask is not None:
        air = air_value(slope, intercept)
        stored = padding.replaced(stored, mask, air)
        bounds = (min(air, bounds[0]), max(air, bounds[1]))
    first = stored[0, 0]
    if stored[form.rows // 2, form.columns // 2] == first and not (stored != first).any():
        raise Fault(Reason.CONSTANT, f"{form.rows} x {form.columns} pixels of {first * slope + intercept:g} HU")
    plausible.check(stored, slope, intercept, bounds, written)
    return stored, slope, intercept, bounds, inverted


def undo_inversion(
    stored: Stored, form: PixelFormat, slope: float, intercept: float, mask: Mask | None, bounds: tuple[int, int]
) -> tuple[Stored, tuple[int, int]]:
    """A MONOCHROME1 image and its bounds, turned round where its values were stored inverted; else `stored` itself.

    By PS3.3 C.7.6.3.1.2 MONOCHROME1 concerns the display only, and the rescale gives HU all the same. But in some files
    the values themselves are inverted, within BitsStored. That is decided by what makes sense of the pixels that are
    not padding (`_sense`). One slice is enough: where there is no brain, air and bone still tell, whatever sign and
    intercept are. A series is not asked, since its slices lie in many shards that know nothing of each other; what was
    decided stands in the index, and `shards.building.series` tells a series whose slices disagree.

    A codestream may hold values beyond BitsStored; such values cannot have been inverted within it, so they stay.
    """
    low, high = (
        (-(1 << (form.stored - 1)), (1 << (form.stored - 1)) - 1) if form.signed else (0, (1 << form.stored) - 1)
    )
    if bounds[0] < low or bounds[1] > high:
        return stored, bounds
    for step, lead in _LOOKS:  # Where some of the pixels leave no doubt, the others are not asked.
        shown = stored[::step, ::step]
        if mask is not None and not mask.all():
            shown = shown[~mask[::step, ::step]]
        hu = shown * np.float64(slope) + np.float64(intercept)
        as_stored, as_turned = _sense(hu), _sense((low + high) * slope + 2 * intercept - hu)
        gained, best = as_turned - as_stored, max(as_stored, as_turned)
        if best > 0.5 * hu.size and abs(gained) > lead * hu.size:
            break
    else:
        otherwise = _sense(hu.max() + hu.min() - hu)
        if otherwise > best + _LEAD_OF_ANOTHER * hu.size:
            raise Fault(
                Reason.POLARITY,
                f"MONOCHROME1, and {max(0, best) / hu.size:.1%} of the pixels at most are brain or air, turned round "
                f"within {form.stored} bits or not; {otherwise / hu.size:.1%} would be, turned in their own range",
            )
    if gained <= 0:
        return stored, bounds
    # A codestream of few bits gives values that may be turned beyond them.
    kind = np.int16 if form.signed else np.uint16
    turned: Stored = kind(low + high) - stored.astype(kind, copy=False)
    return turned, (low + high - bounds[1], low + high - bounds[0])


def _sense(hu: npt.NDArray[np.float64]) -> int:
    """Pixels of brain (0 to 80 HU) and of air, less those that nothing in a scanner has."""
    brain, air = (hu >= 0) & (hu <= 80), (hu >= AIR - 100) & (hu <= AIR + 100)
    nothing = (hu < AIR - 100) | (hu > 2**12)
    return int(np.count_nonzero(brain)) + int(np.count_nonzero(air)) - int(np.count_nonzero(nothing))


def undo_rsna_fault(stored: Stored, form: PixelFormat, slope: float, intercept: float) -> tuple[Stored, float, float]:
    """Unwrap the values of RSNA's faulty 12-bit files; the values of other files stay as they are.

    The faulty files hold HU, written into 12 unsigned bits, and a rescale that does not say so. They are recognised by
    PixelRepresentation 0, BitsStored 12 and an intercept above -100 HU. BitsStored is taken from the DICOM header: a
    codestream often has a precision of 16 bits for values of 12.

    Returns:
        Stored values, slope and intercept such that `HU = stored * slope + intercept`.
    """
    if form.signed or form.stored != 12 or intercept <= RSNA_INTERCEPT:
        return stored, slope, intercept
    values = stored.view(np.int16) if stored.itemsize == 2 else stored.astype(np.int16)
    unwrapped: Stored = values + np.int16(RSNA_SHIFT)
    unwrapped &= RSNA_MODULUS - 1  # the remainder by a power of two, also of negative numbers
    unwrapped -= RSNA_SHIFT
    return unwrapped, 1.0, 0.0


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
        Stored values, slope, intercept and bounds that give the same HU.
    """
    if not (slope.is_integer() and intercept.is_integer()):
        return stored, slope, intercept, bounds
    factor, offset = int(slope), int(intercept)
    low, high = sorted(value * factor + offset for value in bounds)
    if low < -(2**15) or high >= 2**15:
        return stored, slope, intercept, bounds
    # All results fit, so steps that wrap around 16 bits come back into place; 32 bits take 3 % longer.
    values = stored.view(np.uint16) if stored.itemsize == 2 else stored.astype(np.uint16)
    if factor != 1:
        values = values * np.uint16(factor % 2**16)
    if offset:
        values = values + np.uint16(offset % 2**16)
    return values.view(np.int16), 1.0, 0.0, (low, high)


def air_value(slope: float, intercept: float) -> int:
    """The stored integer nearest to -1000 HU.

    >>> air_value(1.0, -1024.0)
    24
    """
    return round((AIR - intercept) / slope)
