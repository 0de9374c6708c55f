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

from shards.dicom import padding, stored_values
from shards.dicom.image_header import ImageHeader
from shards.dicom.reasons import Fault, Reason
from shards.dicom.stored_values import PixelFormat, Stored

AIR = -1000.0
"""HU of air, by the definition of the Hounsfield scale."""

RSNA_MODULUS = 4096
"""2 to the 12: the values of RSNA's faulty files wrapped around when they were written."""

RSNA_SHIFT = 1000
"""HU; what was added before the wrap (`HU = ((raw + 1000) mod 4096) - 1000`)."""

RSNA_INTERCEPT = -100
"""HU. A file with an intercept above this holds HU already. Unsigned values cannot be negative HU, so they wrapped."""


def repaired(
    cells: npt.NDArray[np.integer], form: PixelFormat, header: ImageHeader
) -> tuple[Stored, float, float, tuple[int, int]]:
    """Undo the known faults of an image's values.

    Args:
        cells: the cells as stored or decoded [rows, columns].
        form: the format that the cells really have.
        header: what the file says of the image.

    Returns:
        The first four fields of `shards.dicom.read.Slice`: stored values, slope, intercept and bounds.

    Raises:
        Fault: the image is constant.
    """
    slope, intercept = header.slope, header.intercept
    stored, bounds = stored_values.from_cells(cells, form)
    mask = None if header.padding is None else padding.mask(header.padding, cells, stored, form, bounds)
    # The software that made the faults used BitsStored, however many bits the codestream has.
    written = form if form is header.form else dataclasses.replace(form, stored=header.form.stored)
    if header.inverted:
        stored = undo_inversion(stored, written, slope, intercept)
    stored, slope, intercept = undo_rsna_fault(stored, written, slope, intercept)
    if header.inverted or slope != header.slope or intercept != header.intercept:
        bounds = stored_values.extremes(stored)
    stored, slope, intercept, bounds = in_hounsfield(stored, slope, intercept, bounds)
    if mask is not None:
        air = air_value(slope, intercept)
        stored = padding.replaced(stored, mask, air)
        bounds = (min(air, bounds[0]), max(air, bounds[1]))
    first = stored[0, 0]
    if stored[form.rows // 2, form.columns // 2] == first and not (stored != first).any():
        raise Fault(Reason.CONSTANT, f"{form.rows} x {form.columns} pixels of {first * slope + intercept:g} HU")
    return stored, slope, intercept, bounds


def undo_inversion(stored: Stored, form: PixelFormat, slope: float, intercept: float) -> Stored:
    """The values of a MONOCHROME1 image, turned round where they were stored inverted.

    By PS3.3 C.7.6.3.1.2 MONOCHROME1 concerns the display only, and the rescale gives HU all the same. But in some files
    the values themselves are inverted, within BitsStored. The border of the image decides, because air surrounds a
    head: the values are turned round if that brings the border's median nearer to -1000 HU. A codestream may hold
    values beyond BitsStored; such values cannot have been inverted within it, so they stay as they are.
    """
    low, high = (
        (-(1 << (form.stored - 1)), (1 << (form.stored - 1)) - 1) if form.signed else (0, (1 << form.stored) - 1)
    )
    bounds = stored_values.extremes(stored)
    if bounds[0] < low or bounds[1] > high:
        return stored
    border = np.concatenate([stored[0], stored[-1], stored[1:-1, 0], stored[1:-1, -1]])
    border.sort()
    middle = (int(border[(border.size - 1) // 2]) + int(border[border.size // 2])) / 2
    as_it_is = abs(middle * slope + intercept - AIR)
    turned = abs((low + high - middle) * slope + intercept - AIR)
    if turned >= as_it_is:
        return stored
    # A codestream of few bits gives values that may be turned beyond them.
    wide: Stored = low + high - stored.astype(np.int32)
    return wide.astype(np.int16 if form.signed else np.uint16)


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
