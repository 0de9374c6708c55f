"""DICOM files made for a test, and sources made of them."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom.config
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from hemodist.dataset.labels import LABELS

CT = "1.2.840.10008.5.1.4.1.1.2"
KEY = "00112233445566778899aabbccddeeff"


def hu_image(side: int = 32, seed: int = 0) -> npt.NDArray[np.int16]:
    """A disc of brain-like values in air, int16 [side, side], in HU."""
    down, across = np.mgrid[:side, :side] - (side - 1) / 2
    noise = np.random.default_rng(seed).integers(-15, 16, (side, side))
    return np.where(down**2 + across**2 < (side / 3) ** 2, 40 + noise, -1000).astype(np.int16)


def head_image(side: int = 128, seed: int = 0) -> npt.NDArray[np.int16]:
    """A head in HU, int16 [side, side]: skull, noisy brain and air, a bleed in front on the left of the image."""
    down, across = np.mgrid[:side, :side] * (2 / (side - 1)) - 1
    noise = np.random.default_rng(seed).normal(0, 12, (side, side))
    hu = np.full((side, side), -1000.0)
    for high, wide, value in ((0.85, 0.7, 1100.0), (0.76, 0.61, 35.0), (0.2, 0.1, 6.0)):
        hu[(down / high) ** 2 + (across / wide) ** 2 < 1] = value
    hu[((down + 0.35) / 0.15) ** 2 + ((across + 0.3) / 0.12) ** 2 < 1] = 68.0
    return np.rint(hu + noise).astype(np.int16)


def dataset(stored: npt.NDArray[Any], **changes: Any) -> Dataset:
    """A CT slice of the stored values; `changes` replaces elements, None removes one."""
    with pydicom.config.disable_value_validation():
        made = Dataset()
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.file_meta.MediaStorageSOPClassUID = CT
        made.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
        elements: dict[str, Any] = {
            "SOPClassUID": CT,
            "SOPInstanceUID": "2.25.1",
            "Modality": "CT",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "PatientID": "patient",
            "StudyInstanceUID": "2.25.2",
            "SeriesInstanceUID": "2.25.3",
            "ImagePositionPatient": ["0", "0", "7.5"],
            "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "Rows": stored.shape[0],
            "Columns": stored.shape[1],
            "PixelSpacing": ["0.5", "0.5"],
            "BitsAllocated": 8 * stored.itemsize,
            "BitsStored": 8 * stored.itemsize,
            "HighBit": 8 * stored.itemsize - 1,
            "PixelRepresentation": int(stored.dtype.kind == "i"),
            "RescaleIntercept": "0",
            "RescaleSlope": "1",
            "PixelData": stored.tobytes(),
        }
        for name, value in (elements | changes).items():
            if value is not None:
                setattr(made, name, value)
        made["PixelData"].VR = "OW"
    return made


def to_bytes(made: Dataset, *, implicit: bool = False, little: bool = True) -> bytes:
    """The file of a data set."""
    buffer = io.BytesIO()
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_as(buffer, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return buffer.getvalue()


def dicom_file(stored: npt.NDArray[Any] | None = None, **changes: Any) -> bytes:
    """The file of a CT slice, explicit VR little endian."""
    return to_bytes(dataset(hu_image() if stored is None else stored, **changes))


def write_source(folder: Path, count: int, *, side: int = 32, per_patient: int = 4, broken: int = 0) -> Path:
    """A source in RSNA's layout: `count` slices with labels, `broken` more files that are no slices."""
    images = folder / "stage_2_train"
    images.mkdir(parents=True)
    rows = ["ID,Label"]
    for number in range(count):
        name = f"ID_{number:09x}"
        patient = f"ID_{number // per_patient:08x}"
        content = dicom_file(
            hu_image(side, seed=number), SOPInstanceUID=name, PatientID=patient,
            StudyInstanceUID=f"{patient}.1", SeriesInstanceUID=f"{patient}.1.1",
        )  # fmt: skip
        (images / f"{name}.dcm").write_bytes(content)
        positive = number % 3 == 0
        rows += [f"{name}_{label},{int(positive and label in ('any', 'subdural'))}" for label in (*LABELS[1:], "any")]
    for number in range(broken):
        (images / f"broken_{number}.dcm").write_bytes(dicom_file(Modality="MR") + bytes(number))
    (folder / "stage_2_train.csv").write_text("\n".join(rows) + "\n")
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
