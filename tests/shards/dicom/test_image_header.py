"""What kind of image a file is: pictures and maps are no slices, and copies of slices are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import RLELossless

from shards.dicom import read
from shards.dicom.read import Slice
from shards.dicom.reasons import Reason, Rejected
from tests.support.dicom_files import CT, dataset, dicom_file, hu_image, to_bytes


def reason_of(content: bytes) -> Reason | None:
    found = read.read_slice(content)
    return found.reason if isinstance(found, Rejected) else None


CLASSES = {
    "secondary capture": "1.2.840.10008.5.1.4.1.1.7",
    "multi-frame grey secondary capture": "1.2.840.10008.5.1.4.1.1.7.2",
    "parametric map": "1.2.840.10008.5.1.4.1.1.30",
    "PET": "1.2.840.10008.5.1.4.1.1.128",
    "of a later standard": "1.2.840.10008.5.1.4.1.1.999",
    "a longer number than CT's": "1.2.840.10008.5.1.4.1.1.20",
}


@pytest.mark.parametrize("of", CLASSES.values(), ids=CLASSES.keys())
@pytest.mark.parametrize("kind", [["DERIVED", "SECONDARY"], ["ORIGINAL", "PRIMARY", "AXIAL"], None])
def test_a_picture_by_its_class_is_no_slice_though_it_says_ct(of: str, kind: list[str] | None) -> None:
    assert reason_of(dicom_file(SOPClassUID=of, ImageType=kind)) == Reason.SECONDARY_CAPTURE


@pytest.mark.parametrize("of", [CT, f"{CT}.1", "1.2.826.0.1.3680043.1", None])
def test_ct_classes_private_ones_and_none_are_read(of: str | None) -> None:
    assert reason_of(dicom_file(SOPClassUID=of)) is None


@pytest.mark.parametrize(
    "kind",
    [
        ["DERIVED", "PRIMARY", "MPR"], ["DERIVED", "SECONDARY", "REFORMATTED"],
        ["DERIVED", "SECONDARY", "AXIAL", "MPR"],
        ["ORIGINAL", "PRIMARY", "AXIAL", "CSA MPR"], ["DERIVED", "SECONDARY", "AXIAL", "CBF"],
        ["DERIVED", "PRIMARY", "PERFUSION", "TMAX_MAP"], ["DERIVED", "SECONDARY", "PERFUSION"],
        ["DERIVED", "SECONDARY", "AXIAL", "MIP THICK"], ["DERIVED", "SECONDARY"], ["DERIVED", "SECONDARY", "OTHER"],
    ],
)  # fmt: skip
def test_reformations_and_maps_are_derived(kind: list[str]) -> None:
    assert reason_of(dicom_file(ImageType=kind)) == Reason.DERIVED


@pytest.mark.parametrize(
    "kind",
    [
        ["DERIVED", "SECONDARY", "AXIAL"], ["DERIVED", "PRIMARY", "AXIAL"],
        ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 SPI"],
        ["ORIGINAL", "PRIMARY", "AXIAL", "PERFUSION"], ["DERIVED", "PRIMARY"], ["ORIGINAL"],
    ],
)  # fmt: skip
def test_a_copy_of_an_axial_slice_is_a_slice(kind: list[str]) -> None:
    made = dataset(hu_image(), ImageType=kind)
    made.compress(RLELossless, generate_instance_uid=False)
    found = read.read_slice(to_bytes(made))
    assert isinstance(found, Slice), found
    np.testing.assert_array_equal(found.hu(), hu_image())


def test_a_derived_secondary_image_without_the_class_of_ct_is_none() -> None:
    assert reason_of(dicom_file(ImageType=["DERIVED", "SECONDARY", "AXIAL"], SOPClassUID=None)) == Reason.DERIVED


@pytest.mark.parametrize("frames", [2, 64, 65, 2000])
def test_any_number_of_frames_is_multi_frame(frames: int) -> None:
    changes: dict[str, Any] = {"NumberOfFrames": frames, "Rows": 512, "Columns": 512, "SOPClassUID": f"{CT}.1"}
    found = read.read_slice(dicom_file(**changes))
    assert found == Rejected(Reason.MULTI_FRAME, f"{frames} frames")


def test_lossy_jpeg_of_12_bits_is_refused_by_its_name() -> None:
    made = pydicom.dcmread(get_testdata_file("JPEG-lossy.dcm", download=False))
    made.SOPClassUID, made.Modality, made.ImageType = CT, "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    made.RescaleSlope, made.RescaleIntercept, made.NumberOfFrames = 1, -1024, 1
    found = read.read_slice(to_bytes(made))
    assert isinstance(found, Rejected)
    assert found.reason == Reason.UNDECODABLE_SYNTAX
    assert "JPEG Extended" in found.detail
    assert "12 bits" in found.detail
