"""How the synthetic scanners store Hounsfield units, read back by a small decoder of this file's own."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest

from shards.phantom.head import Scan
from shards.phantom.scanner import SCANNERS, Names, Scanner, circle, encode

NAMES = Names("ID_0123456ab", "ID_01234567", "ID_0123456789", "ID_9876543210")
SCAN = Scan(size=64, spacing=3.5, gap=5.0, thickness=5.0, tilt=0.2, corner=(-110.25, -108.0, -60.0))


def decode(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """HU and which pixels are padding, straight from the bytes of Pixel Data."""
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(io.BytesIO(content))
        kind = "<i2" if ds.PixelRepresentation else "<u2"
        values = np.frombuffer(ds.PixelData, kind).reshape(ds.Rows, ds.Columns).astype(np.int64)
        padded = values == ds.get("PixelPaddingValue", 10**6)
        bits = int(ds.BitsStored)
        if ds.PhotometricInterpretation == "MONOCHROME1":
            values = -1 - values if ds.PixelRepresentation else 2**bits - 1 - values
        if bits == 12 and ds.PixelRepresentation == 0 and float(ds.RescaleIntercept) > -100:
            return ((values + 1024) % 4096 - 1024).astype(float), padded
        return values * float(ds.RescaleSlope) + float(ds.RescaleIntercept), padded


def picture() -> np.ndarray:
    hu = np.linspace(-1000, 1900, 64 * 64).reshape(64, 64).astype(np.float32)
    hu[20:30, 20:40] = np.array([-1000, -999.6, -90, -1, 0, 36.5, 40, 64.2, 80, 1000], np.float32)[:, None]
    return hu


@pytest.mark.parametrize("monochrome1", [False, True])
@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda s: s.name)
def test_every_profile_gives_the_hounsfield_units_back(scanner: Scanner, monochrome1: bool) -> None:
    if scanner.wrapped and monochrome1:
        pytest.skip("never combined")
    hu = picture()
    found, padded = decode(encode(hu, scanner, SCAN, 3, NAMES, monochrome1=monochrome1))
    inside = circle(64)
    np.testing.assert_allclose(found[inside], hu[inside], atol=0.5 * scanner.slope + 1e-3)
    np.testing.assert_array_equal(padded, ~inside if scanner.padding is not None else np.zeros_like(inside))


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda s: s.name)
def test_pydicom_reads_the_same_values_and_bits_not_stored_carry_the_sign(scanner: Scanner) -> None:
    content = encode(picture(), scanner, SCAN, 0, NAMES, monochrome1=False)
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(io.BytesIO(content))
        low, high = scanner.limits
        assert low <= int(ds.pixel_array.min()) <= int(ds.pixel_array.max()) <= high
        raw = np.frombuffer(ds.PixelData, "<i2" if scanner.signed else "<u2").reshape(64, 64)
        np.testing.assert_array_equal(ds.pixel_array, raw)


def test_files_carry_rsna_s_attributes_and_the_geometry_of_a_tilted_gantry() -> None:
    content = encode(picture(), SCANNERS[1], SCAN, 3, NAMES, monochrome1=False)
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(io.BytesIO(content))
        assert ds.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        assert (ds.Modality, ds.PatientID, ds.SOPInstanceUID) == ("CT", NAMES.patient, NAMES.slice_id)
        assert (ds.StudyInstanceUID, ds.SeriesInstanceUID) == (NAMES.study, NAMES.series)
        assert [float(x) for x in ds.ImagePositionPatient] == [-110.25, -108.0, -45.0]
        rows = np.array([float(x) for x in ds.ImageOrientationPatient]).reshape(2, 3)
        np.testing.assert_allclose(rows @ rows.T, np.eye(2), atol=1e-5)
        assert len(ds.WindowCenter) == len(ds.WindowWidth) == 2
        assert "PatientName" not in ds
