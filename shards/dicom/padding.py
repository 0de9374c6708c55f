"""Padding: pixels outside a round reconstruction, which fill up the square image and show nothing.

Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2) say which stored values they have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from shards.dicom import elements
from shards.dicom.stored_values import PixelFormat, Stored

Mask = npt.NDArray[np.bool_]
"""Which pixels are padding, bool [rows, columns]."""


@dataclass(frozen=True)
class Padding:
    """Which values are padding (PS3.3 C.7.5.1.1.2): Pixel Padding Value (0028,0120) and Range Limit (0028,0121).

    Attributes:
        value: Pixel Padding Value, as the bits of one cell.
        limit: Pixel Padding Range Limit, as the bits of one cell; None where there is none.
    """

    value: int
    limit: int | None


def find(dataset: Dataset, form: PixelFormat) -> Padding | None:
    """Which stored values are padding; None where the file does not say.

    Raises:
        Fault: an element of it is no number.
    """
    if elements.raw(dataset, "PixelPaddingValue") is None:
        return None
    ranged = elements.raw(dataset, "PixelPaddingRangeLimit") is not None
    limit = _cell(dataset, "PixelPaddingRangeLimit", form) if ranged else None
    return Padding(_cell(dataset, "PixelPaddingValue", form), limit)


def mask(
    padding: Padding, cells: npt.NDArray[np.integer], values: Stored, form: PixelFormat, bounds: tuple[int, int]
) -> Mask | None:
    """Which pixels are padding; None where no pixel is.

    A padding value that BitsStored can hold is compared with the stored values, another one with all bits of a cell.

    Args:
        padding: what the header says.
        cells: the cells [rows, columns].
        values: the stored values in the cells [rows, columns].
        form: the format that the cells really have.
        bounds: no value is below the first or above the second.

    Returns:
        bool [rows, columns].
    """
    first = _signed(padding.value, form)
    low, high = sorted((first, first if padding.limit is None else _signed(padding.limit, form)))
    top = 1 << form.high
    beyond = not -top <= first < top if form.signed else bool(padding.value >> (form.high + 1))
    if not beyond and (high < bounds[0] or low > bounds[1]):
        return None
    found: Mask = values == first if low == high else (values >= low) & (values <= high)
    if beyond:
        found |= cells.view(f"u{cells.dtype.itemsize}") == padding.value
    return found if found.any() else None


def replaced(stored: Stored, mask: Mask, value: int) -> Stored:
    """The stored values with those under the mask replaced, in a wider type where the new value needs one.

    Args:
        stored: integers of 32 bits or fewer [rows, columns].
        mask: bool [rows, columns], true somewhere.
        value: the new value.

    Returns:
        `stored` itself where it can be written and holds the new value's type; otherwise a copy.
    """
    bounds = np.iinfo(stored.dtype)
    fits = bounds.min <= value <= bounds.max
    # An array that can be written is this slice's own: the bytes of a file cannot.
    other = stored if fits and stored.flags.writeable else stored.astype(stored.dtype if fits else np.int32)
    np.copyto(other, value, where=mask, casting="unsafe")
    return other


def _cell(dataset: Dataset, keyword: str, form: PixelFormat) -> int:
    """The element as the bits of one cell; files write it signed or unsigned as they like."""
    value = elements.raw(dataset, keyword)
    number = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else elements.integer(dataset, keyword)
    return number & ((1 << form.allocated) - 1)


def _signed(pattern: int, form: PixelFormat) -> int:
    return pattern - (1 << form.allocated) if form.signed and pattern >> (form.allocated - 1) else pattern
