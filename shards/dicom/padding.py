"""Pixels that show nothing: what surrounds a round reconstruction in its square image (PS3.3 C.7.5.1.1.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from shards.dicom import elements
from shards.dicom.stored_values import Format, Stored

_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Padding:
    """Which values are padding (PS3.3 C.7.5.1.1.2): Pixel Padding Value (0028,0120) and Range Limit (0028,0121).

    Attributes:
        value: as the bits of one cell.
        limit: likewise; None where there is none.
    """

    value: int
    limit: int | None


def find(dataset: Dataset, form: Format) -> Padding | None:
    """Which values are padding; None where the file does not say.

    Raises:
        Fault: it says so with something that is no number.
    """
    if elements.raw(dataset, "PixelPaddingValue") is None:
        return None
    ranged = elements.raw(dataset, "PixelPaddingRangeLimit") is not None
    limit = _cell(dataset, "PixelPaddingRangeLimit", form) if ranged else None
    return Padding(_cell(dataset, "PixelPaddingValue", form), limit)


def mask(
    padding: Padding, cells: npt.NDArray[np.integer], values: Stored, form: Format, bounds: tuple[int, int]
) -> tuple[_Mask, bool] | None:
    """Which pixels are padding, found by value or, beyond BitsStored, by the cell's whole bits; None for none.

    Args:
        padding: what the header says.
        cells: [rows, columns].
        values: of the cells.
        form: the format that the cells really have.
        bounds: of the values.

    Returns:
        bool [rows, columns], and whether all values under it are one.
    """
    first = _signed(padding.value, form)
    low, high = sorted((first, first if padding.limit is None else _signed(padding.limit, form)))
    top = 1 << form.high
    beyond = not -top <= first < top if form.signed else bool(padding.value >> (form.high + 1))
    if not beyond and (high < bounds[0] or low > bounds[1]):
        return None
    found: _Mask = values == first if low == high else (values >= low) & (values <= high)
    if beyond:
        found |= cells.view(f"u{cells.dtype.itemsize}") == padding.value
    return (found, low == high and not beyond) if found.any() else None


def replaced(stored: Stored, mask: _Mask, value: int, *, single: bool) -> Stored:
    """The stored values with those under the mask replaced, in a wider type where need be.

    Args:
        stored: integers of 32 bits or fewer [rows, columns].
        mask: bool [rows, columns], somewhere true.
        value: the new one.
        single: those under the mask are all one value.
    """
    bounds = np.iinfo(stored.dtype)
    if single and stored.dtype == np.int16 and bounds.min <= value <= bounds.max:
        # Three plain steps, which are faster than a masked one; they wrap around 16 bits and back.
        difference = (value - int(stored.flat[int(mask.argmax())])) % 2**16
        changed = mask.astype(np.int16)
        changed *= np.uint16(difference).astype(np.int16)
        changed += stored
        return changed
    other = stored.astype(stored.dtype if bounds.min <= value <= bounds.max else np.int32)
    np.copyto(other, value, where=mask, casting="unsafe")
    return other


def _cell(dataset: Dataset, keyword: str, form: Format) -> int:
    """The element as the bits of one cell; files write it signed or unsigned as they like."""
    value = elements.raw(dataset, keyword)
    number = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else elements.integer(dataset, keyword)
    return number & ((1 << form.allocated) - 1)


def _signed(pattern: int, form: Format) -> int:
    return pattern - (1 << form.allocated) if form.signed and pattern >> (form.allocated - 1) else pattern
