"""Hounsfield units and windows against pydicom's own, on real slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.pixels import apply_windowing

from shards.dicom.read import Slice, read_slice
from shards.picture import windows


def reference(hu: np.ndarray, center: float, width: float) -> np.ndarray:
    """pydicom's LINEAR function; eight unsigned bits and no rescale make its output range 0 to 255."""
    meta = Dataset()
    meta.PhotometricInterpretation = "MONOCHROME2"
    meta.BitsStored, meta.PixelRepresentation = 8, 0
    meta.WindowCenter, meta.WindowWidth = center, width
    return np.rint(apply_windowing(hu, meta)).astype(np.uint8)


@pytest.mark.parametrize("name", windows.NAMED)
def test_every_named_window_equals_pydicoms_on_real_slices(shared_dicom: Path, name: str) -> None:
    chosen = windows.NAMED[name]
    for path in sorted((shared_dicom / "head_ct").glob("*.dcm"))[::3]:
        found = read_slice(path.read_bytes())
        assert isinstance(found, Slice)
        shown = windows.apply(found.hu(), [chosen])[..., 0]
        np.testing.assert_array_equal(shown, reference(found.hu(), chosen.center, chosen.width))
        assert len(np.unique(shown)) > min(5, chosen.width / 2)


@pytest.mark.parametrize("name", windows.NAMED)
def test_every_named_window_equals_pydicoms_on_fractions_of_hu(name: str) -> None:
    chosen = windows.NAMED[name]
    hu = np.linspace(chosen.center - chosen.width, chosen.center + chosen.width, 9973).reshape(1, -1)
    np.testing.assert_array_equal(windows.apply(hu, [chosen])[..., 0], reference(hu, chosen.center, chosen.width))
