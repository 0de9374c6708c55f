"""How the synthetic scanners store Hounsfield units, and the DICOM file of a slice.

MONOCHROME1: here the file stores inverted values, smallest + largest of BitsStored - v, and Pixel Padding Value is
inverted with them, so that the picture is right when shown by PS3.3 C.7.6.3.1.2 (lowest value white). A reader gets the
Hounsfield units back by inverting within BitsStored first and rescaling then.

The 12-bit fault is RSNA's: the stored value is HU modulo 4096 in 12 unsigned bits with RescaleIntercept 0, and
`HU = ((stored + 1024) mod 4096) - 1024` is right. Such files are never MONOCHROME1.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from shards.phantom.head import Reals, Scan

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
"""SOP class of a CT image, PS3.4 B.5."""


@dataclass(frozen=True, slots=True)
class Scanner:
    """A way to store Hounsfield units; the words are DICOM's attributes (PS3.3 C.7.6.3, C.7.5.1.1.2, C.11.1)."""

    name: str
    bits_stored: int
    signed: bool
    slope: float
    intercept: float
    padding: int | None  # stored value outside the circle of reconstruction; None: air instead
    window_center: str | list[str]
    window_width: str | list[str]
    wrapped: bool = False  # the 12-bit fault

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest value that BitsStored can hold."""
        half = 1 << (self.bits_stored - 1)
        return (-half, half - 1) if self.signed else (0, 2 * half - 1)


SCANNERS = (
    Scanner("signed 16-bit, padded", 16, True, 1.0, -1024.0, -2000, "30", "80"),
    Scanner("unsigned 12-bit", 12, False, 1.0, -1024.0, None, ["40", "80"], ["80", "200"]),
    Scanner("unsigned 12-bit, wrapped", 12, False, 1.0, 0.0, None, "36", "80", wrapped=True),
    Scanner("signed 12-bit, padded", 12, True, 1.0, 0.0, -2000, ["00040", "00040"], ["00080", "00380"]),
    Scanner("unsigned 16-bit, half units", 16, False, 0.5, -1024.0, 0, "40.0", "150.0"),
)
"""The profiles. Two windows, leading zeros and decimals are all seen in RSNA's files."""

FAULTY = tuple(i for i, scanner in enumerate(SCANNERS) if scanner.wrapped)
"""Profiles that are never MONOCHROME1."""


def store(hu: Reals, scanner: Scanner, *, monochrome1: bool) -> npt.NDArray[np.integer[Any]]:
    """Stored values of a slice, uint16 or int16 (rows, columns).

    Args:
        hu: float32 (rows, columns), Hounsfield units.
        scanner: the profile; values beyond its range are clipped, as scanners do.
        monochrome1: whether to invert.
    """
    low, high = scanner.limits
    if scanner.wrapped:
        values = np.rint(np.clip(hu, -1000.0, 3071.0)).astype(np.int32) % 4096
    else:
        floor = low if scanner.padding is None else max(low, scanner.padding + 1)
        values = np.rint((hu - scanner.intercept) / scanner.slope).clip(floor, high).astype(np.int32)
    if scanner.padding is not None or scanner.wrapped:
        outside = scanner.padding if scanner.padding is not None else AIR_WRAPPED
        values[~circle(hu.shape[0])] = outside
    if monochrome1:
        values = low + high - values
    return values.astype(np.int16 if scanner.signed else np.uint16)


AIR_WRAPPED = -1000 % 4096
"""Air as the wrapped profile stores it."""


def circle(size: int) -> npt.NDArray[np.bool_]:
    """Which pixels lie in the circle of reconstruction, bool (size, size)."""
    at = np.arange(size) - (size - 1) / 2
    return np.asarray(at[:, None] ** 2 + at[None, :] ** 2 <= (size / 2) ** 2)


@dataclass(frozen=True, slots=True)
class Names:
    """RSNA's identifiers of one slice, each `ID_` and hexadecimal digits."""

    slice_id: str
    patient: str
    study: str
    series: str


def encode(hu: Reals, scanner: Scanner, scan: Scan, k: int, names: Names, *, monochrome1: bool) -> bytes:
    """The DICOM file of slice `k`: explicit VR little endian, uncompressed, with the attributes that RSNA kept.

    RSNA's identifiers are no valid UIDs and its patients have no names; both are kept so, without pydicom's validation.
    """
    with config.disable_value_validation():
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = UID(CT_IMAGE_STORAGE)
        digest = hashlib.blake2b(names.slice_id.encode(), digest_size=15).digest()
        meta.MediaStorageSOPInstanceUID = UID(f"2.25.{int.from_bytes(digest, 'big')}")  # PS3.5 B.2
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = Dataset()
        ds.file_meta = meta
        ds.SOPInstanceUID = names.slice_id
        ds.Modality = "CT"
        ds.PatientID = names.patient
        ds.StudyInstanceUID = names.study
        ds.SeriesInstanceUID = names.series
        ds.StudyID = ""
        ds.ImagePositionPatient = [f"{value:.6f}" for value in scan.position(k)]
        ds.ImageOrientationPatient = [f"{value:.6f}" for value in (1.0, 0.0, 0.0, *scan.column_direction())]
        ds.SamplesPerPixel = 1
        ds.PhotometricInterpretation = "MONOCHROME1" if monochrome1 else "MONOCHROME2"
        ds.Rows = ds.Columns = scan.size
        ds.PixelSpacing = [f"{scan.spacing:.6f}"] * 2
        ds.BitsAllocated = 16
        ds.BitsStored = scanner.bits_stored
        ds.HighBit = scanner.bits_stored - 1
        ds.PixelRepresentation = int(scanner.signed)
        if scanner.padding is not None:
            low, high = scanner.limits
            padding = low + high - scanner.padding if monochrome1 else scanner.padding
            ds.add_new("PixelPaddingValue", "SS" if scanner.signed else "US", padding)
        ds.WindowCenter, ds.WindowWidth = scanner.window_center, scanner.window_width
        ds.RescaleIntercept, ds.RescaleSlope = f"{scanner.intercept:g}", f"{scanner.slope:g}"
        stored = store(hu, scanner, monochrome1=monochrome1)
        ds.add_new("PixelData", "OW", stored.astype(stored.dtype.newbyteorder("<")).tobytes())
        out = io.BytesIO()
        pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()
