"""Axial slices are turned to the standard orientation, others are rejected, and positions run along the patient."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from shards.dicom import read
from shards.dicom.read import Slice
from shards.dicom.reasons import Reason, Rejected
from tests.support.dicom_files import dataset, dicom_file, head_image, to_bytes

HU = head_image()[:, 4:-4]  # more rows than columns
SPACING, ORIGIN = (0.6, 0.5), (-30.0, -38.0, 12.0)
X, Y, Z = np.eye(3)


def slice_of(content: bytes) -> Slice:
    found = read.read_slice(content)
    assert isinstance(found, Slice), found
    return found


def stored_as(transposed: bool, down: int, right: int, tilt: float = 0.0) -> tuple[np.ndarray, dict[str, Any]]:
    """The head as another orientation stores it, and the elements that say so."""
    along_row, along_column = X, math.cos(math.radians(tilt)) * Y - math.sin(math.radians(tilt)) * Z
    image, (high, wide) = HU, HU.shape
    origin = np.array(ORIGIN)
    if down < 0:
        image, origin, along_column = image[::-1], origin + (high - 1) * SPACING[0] * along_column, -along_column
    if right < 0:
        image, origin, along_row = image[:, ::-1], origin + (wide - 1) * SPACING[1] * along_row, -along_row
    spacing = SPACING
    if transposed:
        image, along_row, along_column, spacing = image.T, along_column, along_row, SPACING[::-1]
    elements = {
        "ImageOrientationPatient": [f"{value:.6f}" for value in (*along_row, *along_column)],
        "ImagePositionPatient": [f"{value:.6f}" for value in origin],
        "PixelSpacing": [str(value) for value in spacing],
    }
    return np.ascontiguousarray(image), elements


@pytest.mark.parametrize("tilt", [0.0, 20.0, -25.0])
@pytest.mark.parametrize("right", [1, -1])
@pytest.mark.parametrize("down", [1, -1])
@pytest.mark.parametrize("transposed", [False, True])
def test_every_axial_orientation_gives_the_same_slice(transposed: bool, down: int, right: int, tilt: float) -> None:
    image, elements = stored_as(transposed, down, right, tilt)
    found, standard = slice_of(dicom_file(image, **elements)), stored_as(False, 1, 1, tilt)
    np.testing.assert_array_equal(found.stored, HU)
    assert found.stored.flags.c_contiguous
    assert found.spacing == SPACING
    assert found.position == pytest.approx(slice_of(dicom_file(standard[0], **standard[1])).position, abs=1e-3)


def test_compressed_slices_are_turned_too() -> None:
    image, elements = stored_as(True, -1, 1)
    made = dataset(image, **elements)
    made.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    np.testing.assert_array_equal(slice_of(to_bytes(made)).stored, HU)


def test_padding_is_turned_with_the_pixels() -> None:
    image, elements = stored_as(False, -1, -1)
    image[:3] = -2000
    found = slice_of(dicom_file(image, PixelPaddingValue=-2000, **elements))
    assert (found.stored[-3:] == -1000).all()
    np.testing.assert_array_equal(found.stored[:-3], HU[:-3])


@pytest.mark.parametrize("flipped", [1, -1])
def test_positions_rise_from_feet_to_head(flipped: int) -> None:
    axes = [1, 0, 0, 0, flipped, 0]
    places = [
        slice_of(dicom_file(ImageOrientationPatient=axes, ImagePositionPatient=[0, 0, z])).position for z in (-5, 0, 5)
    ]
    assert places == [-5, 0, 5]


def leaning(degrees: float) -> list[float]:
    """A plane whose normal is so far off the patient's long axis."""
    return [1, 0, 0, 0, round(math.cos(math.radians(degrees)), 6), round(math.sin(math.radians(degrees)), 6)]


PLANES = {
    "sagittal": [0, 1, 0, 0, 0, -1],
    "coronal": [1, 0, 0, 0, 0, -1],
    "sagittal, mirrored": [0, -1, 0, 0, 0, -1],
    "50 degrees": leaning(50),
    "oblique": [0.7071, 0.7071, 0, 0, 0, -1],
    "130 degrees": leaning(130),
}


@pytest.mark.parametrize("kind", [["ORIGINAL", "PRIMARY", "AXIAL"], None])
@pytest.mark.parametrize("axes", [value for name, value in PLANES.items() if name != "130 degrees"])
def test_another_plane_is_rejected_whatever_its_image_type_says(axes: list[float], kind: list[str] | None) -> None:
    found = read.read_slice(dicom_file(ImageOrientationPatient=axes, ImageType=kind))
    assert isinstance(found, Rejected)
    assert found.reason == Reason.NOT_AXIAL
    assert "degrees" in found.detail


@pytest.mark.parametrize("degrees", [0, 18.5, -30, 44])
def test_a_tilted_gantry_is_axial_and_stays_as_it_is(degrees: float) -> None:
    stored = head_image()
    found = slice_of(dicom_file(stored, ImageOrientationPatient=leaning(degrees)))
    np.testing.assert_array_equal(found.stored, stored)


@pytest.mark.parametrize("axes", [None, [1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [5, 0, 0, 0, 5, 0]])
def test_a_missing_or_damaged_orientation_costs_the_position_only(axes: list[float] | None) -> None:
    found = slice_of(dicom_file(ImageOrientationPatient=axes))
    assert (found.position, found.spacing) == (None, (0.5, 0.5))
