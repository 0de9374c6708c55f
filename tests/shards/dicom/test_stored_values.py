from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from shards.dicom.stored_values import PixelFormat, from_cells


def slowly(cell: int, form: PixelFormat) -> int:
    """The value of one cell by PS3.5 8.1.1: the bits from HighBit down, the uppermost of them the sign."""
    value = (cell >> (form.high - form.stored + 1)) % (1 << form.stored)
    return value - (1 << form.stored) if form.signed and value >> (form.stored - 1) else value


@given(
    allocated=st.sampled_from([8, 16]),
    signed=st.booleans(),
    data=st.data(),
)
def test_stored_values_are_the_bits_that_the_format_names(allocated: int, signed: bool, data: st.DataObject) -> None:
    stored = data.draw(st.integers(1, allocated), "bits stored")
    high = data.draw(st.integers(stored - 1, allocated - 1), "high bit")
    form = PixelFormat(2, 3, allocated, stored, high, signed)
    # Values of few bits, sign-extended or not, are what scanners write; any bits are what a file may hold.
    inside = st.integers(-(1 << (stored - 1)), (1 << stored) - 1).map(lambda value: value % (1 << allocated))
    cells = data.draw(st.lists(st.one_of(inside, st.integers(0, (1 << allocated) - 1)), min_size=6, max_size=6))
    bits: npt.NDArray[np.unsignedinteger] = np.array(cells, f"u{allocated // 8}").reshape(2, 3)
    values, bounds = from_cells(bits, form)
    assert values.ravel().tolist() == [slowly(cell, form) for cell in cells]
    assert bounds == (values.min(), values.max())
    assert values.dtype.itemsize == bits.dtype.itemsize
