"""One DICOM file as bytes in, a repaired slice in stored values out; or the reason why not.

Whatever is wrong with a file becomes a `Rejected`: reading never raises, and no text in it comes from the file, since
any element may hold a patient's name. The checks run from the container inwards, so that the first fault is named.
"""

from __future__ import annotations

import re
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pydicom.config
from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from shards import clean, elements, pixels
from shards.reason import Fault, Reason, Rejected

MAX_INFLATED = 256 * 2**20
"""Bytes that a deflated data set may grow to."""

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
"""SOP class of CT images (PS3.4 B.5)."""

_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
_PREFIX = slice(128, 132)
_DICOM_ROOT = b"1.2.840.10008."  # begins every UID that the standard defines (PS3.5 9)
_META_LENGTH = 12 + 132  # end of (0002,0000), the first element after the prefix (PS3.10 7.1)
_LOCALIZERS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW"})
_DERIVED = frozenset(
    {"REFORMATTED", "MPR", "MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "CURVED", "VOLUME", "VRT", "SSD"}
    | {"AVERAGE", "SUBTRACTION", "CSA MPR", "CSA MIP", "CSA RESAMPLED", "SCREEN SAVE", "DOSE_INFO"}
)
_OTHER_UNITS = re.compile(r"OD|EDW?|Z_EFF|ZEFF|MGML|PCT|IODINE.*|.*MONO.*|HU_MOD")
_MODALITIES = frozenset(
    {"CR", "CT", "DX", "MG", "MR", "NM", "OT", "PT", "RF", "RTDOSE", "RTIMAGE", "RTPLAN"}
    | {"SC", "SEG", "SR", "US", "XA"}
)


@dataclass(frozen=True)
class Slice:
    """One CT slice after repair: `HU = stored * slope + intercept`.

    Attributes:
        stored: int32 [rows, columns]; padding is air, inversions and wraps are undone.
        slope: HU a stored unit.
        intercept: HU of stored value 0.
        spacing: mm between rows and between columns; None where the file does not say.
        position: mm along the slice's normal; None where the file does not say.
        patient: Patient ID (0010,0020) as the file has it: to be made a pseudonym, never to be written.
        study: Study Instance UID, likewise.
        series: Series Instance UID, likewise.
        uid: SOP Instance UID, likewise.
    """

    stored: npt.NDArray[np.int32]
    slope: float
    intercept: float
    spacing: tuple[float, float] | None
    position: float | None
    patient: str | None
    study: str | None
    series: str | None
    uid: str | None

    def hu(self) -> npt.NDArray[np.float64]:
        """The image in HU, float64 [rows, columns]."""
        hu: npt.NDArray[np.float64] = self.stored * np.float64(self.slope) + np.float64(self.intercept)
        return hu


def read(content: bytes) -> Slice | Rejected:
    """Read one file.

    Args:
        content: all bytes of the file.

    Returns:
        The slice, or why it cannot be used. Only a lack of memory is raised.
    """
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            return _read(content)
    except Fault as fault:
        return fault.rejected
    except MemoryError:
        raise
    except (
        Exception
    ) as error:  # A file can be broken in ways that nobody has thought of; the type alone is safe to tell.
        return Rejected(Reason.UNREADABLE, type(error).__name__)


def _read(content: bytes) -> Slice | Rejected:
    dataset, syntax = _parse(content)
    if "PixelData" not in dataset:
        raise Fault(Reason.NO_PIXELS, f"{len(content)} bytes, {len(dataset)} elements")
    rows, columns, frames = pixels.image_size(dataset)
    samples = elements.integer(dataset, "SamplesPerPixel", 1)
    photometric = (elements.words(dataset, "PhotometricInterpretation") or ("",))[0]
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        if samples == 1 and not photometric:
            raise Fault(Reason.BAD_VALUE, "PhotometricInterpretation is missing")
        raise Fault(Reason.COLOUR, f"{samples} samples a pixel")
    if frames != 1:
        raise Fault(Reason.MULTI_FRAME, f"{frames} frames")
    decoder = None if syntax is None or syntax in _NATIVE else pixels.find_decoder(syntax)
    if decoder is None:
        pixels.check_length(dataset, rows, columns)
    _check_kind(dataset)
    form = pixels.pixel_format(dataset, rows, columns)
    slope, intercept = _rescale(dataset)
    stored, padding, form = pixels.decode(dataset, decoder, form)
    if photometric == "MONOCHROME1":
        stored = pixels.undo_inversion(stored, form, slope, intercept)
    stored, slope, intercept = pixels.undo_rsna_fault(stored, form, slope, intercept)
    if padding is not None:
        np.copyto(stored, clean.air_value(slope, intercept), where=padding)
    first = stored[0, 0]
    if stored[rows // 2, columns // 2] == first and not (stored != first).any():
        raise Fault(Reason.CONSTANT, f"{rows} x {columns} pixels of {first * slope + intercept:g} HU")
    return Slice(
        stored=stored,
        slope=slope,
        intercept=intercept,
        spacing=_spacing(dataset),
        position=_position(dataset),
        patient=elements.text(dataset, "PatientID"),
        study=elements.text(dataset, "StudyInstanceUID"),
        series=elements.text(dataset, "SeriesInstanceUID"),
        uid=elements.text(dataset, "SOPInstanceUID"),
    )


def _parse(content: bytes) -> tuple[Dataset, UID | None]:
    """The data set and its transfer syntax; None for a data set without file meta information."""
    if not content:
        raise Fault(Reason.EMPTY, "0 bytes")
    prefixed = content[_PREFIX] == b"DICM"
    if not prefixed and content[:4] == b"DICM":  # The prefix without its preamble.
        content, prefixed = bytes(128) + content, True
    if not prefixed and not _starts_a_dataset(content):
        if _DICOM_ROOT in content:
            raise Fault(Reason.DAMAGED_START, f"{len(content)} bytes, no element at byte 0")
        raise Fault(Reason.NOT_DICOM, f"{len(content)} bytes")
    if prefixed and (found := _plain(content)) is not None:
        return found
    try:
        dataset = dcmread(BytesIO(_inflated(content)), force=True)
    except (Fault, MemoryError):
        raise
    except Exception as error:
        raise Fault(Reason.UNREADABLE, type(error).__name__) from error
    syntax = elements.text(dataset.file_meta, "TransferSyntaxUID")
    if syntax is None and (prefixed or len(dataset.file_meta)):
        raise Fault(Reason.MISSING_TRANSFER_SYNTAX, f"{len(dataset.file_meta)} elements of file meta information")
    return dataset, None if syntax is None else UID(syntax)


def _plain(content: bytes) -> tuple[Dataset, UID] | None:
    """What pydicom's `dcmread` gives for a file whose meta information is as the standard has it; None for others.

    It parses that group twice and looks for a third, which takes as long as the data set itself.
    """
    first, length = content[132:140], int.from_bytes(content[140:144], "little")
    end, position = _META_LENGTH + length, _META_LENGTH
    if first != b"\x02\x00\x00\x00UL\x04\x00" or content[end : end + 2] not in (b"\x08\x00", b"\x00\x08"):
        return None
    syntax = None
    while position < end and content[position : position + 2] == b"\x02\x00":
        number, kind = content[position + 2 : position + 4], content[position + 4 : position + 6]
        wide = kind in (b"OB", b"UN", b"UT")
        size = int.from_bytes(
            content[position + 8 : position + 12] if wide else content[position + 6 : position + 8], "little"
        )
        position += 12 if wide else 8
        if number == b"\x10\x00" and kind == b"UI":
            syntax = UID(content[position : position + size].decode("ascii", "replace").rstrip(" \0"))
        position += size
    if position != end or syntax is None or not syntax.is_transfer_syntax or syntax.is_private or syntax.is_deflated:
        return None
    try:
        file = BytesIO(content)
        file.seek(end)
        dataset = read_dataset(file, syntax.is_implicit_VR, syntax.is_little_endian)
        dataset.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian, dataset._character_set)
    except MemoryError:
        raise
    except Exception:  # Whatever it is, the general way names it.
        return None
    return dataset, syntax


def _starts_a_dataset(content: bytes) -> bool:
    """Whether the first eight bytes are an element of group 0002 or 0008 that fits into the file."""
    explicit = content[4:6].isalpha() and content[4:6].isupper()
    if content[:2] in (b"\x02\x00", b"\x08\x00"):
        return explicit or int.from_bytes(content[4:8], "little") <= len(content) - 8
    return content[:2] == b"\x00\x08" and explicit


def _inflated(content: bytes) -> bytes:
    """A deflated file as the explicit little endian file that it stands for; other files as they are.

    pydicom would inflate without a limit, and a small file can grow a thousandfold.
    """
    deflated = DeflatedExplicitVRLittleEndian.encode()
    if deflated not in content[:4096]:
        return content
    start = _META_LENGTH + int.from_bytes(content[_META_LENGTH - 4 : _META_LENGTH], "little")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflater.decompress(content[start:], MAX_INFLATED)
    except zlib.error as error:
        raise Fault(Reason.UNREADABLE, "the deflated data set is damaged") from error
    if inflater.unconsumed_tail:
        raise Fault(Reason.ABSURD_SIZE, f"the deflated data set is larger than {MAX_INFLATED} bytes")
    plain = ExplicitVRLittleEndian.encode().ljust(len(deflated), b"\0")
    return content[:start].replace(deflated, plain) + body


def _check_kind(dataset: Dataset) -> None:
    """Accept reconstructed CT slices only.

    Raises:
        Fault: another modality, a localizer, or an image made from images.
    """
    modality = (elements.words(dataset, "Modality") or ("",))[0]
    if modality != "CT" and (modality or elements.text(dataset, "SOPClassUID") != CT_IMAGE_STORAGE):
        raise Fault(Reason.WRONG_MODALITY, modality if modality in _MODALITIES else "unknown or missing")
    kind = elements.words(dataset, "ImageType")
    if localizer := _LOCALIZERS.intersection(kind):
        raise Fault(Reason.LOCALIZER, min(localizer))
    # A lossy copy of a slice says DERIVED\PRIMARY\AXIAL, and is one.
    if kind[:2] == ("DERIVED", "SECONDARY"):
        raise Fault(Reason.DERIVED, "DERIVED, SECONDARY")
    if derived := _DERIVED.intersection(kind[2:]):
        raise Fault(Reason.DERIVED, min(derived))


def _rescale(dataset: Dataset) -> tuple[float, float]:
    slope, intercept = elements.number(dataset, "RescaleSlope"), elements.number(dataset, "RescaleIntercept")
    if slope is None or intercept is None:
        raise Fault(Reason.NOT_HOUNSFIELD, "RescaleSlope or RescaleIntercept is missing")
    # Slopes of CT are 0.1 to 10; the limits keep every HU finite and every stored value of air an int32.
    if not 1e-4 <= abs(slope) <= 1e4 or abs(intercept) > 1e5:
        raise Fault(Reason.NOT_HOUNSFIELD, f"RescaleSlope {slope:g}, RescaleIntercept {intercept:g}")
    unit = (elements.words(dataset, "RescaleType") or ("HU",))[0]
    if _OTHER_UNITS.fullmatch(unit):
        raise Fault(Reason.NOT_HOUNSFIELD, "RescaleType is not HU")
    return slope, intercept


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    found = elements.numbers(dataset, "PixelSpacing", 2)
    return (found[0], found[1]) if found is not None and min(found) > 0 else None


def _position(dataset: Dataset) -> float | None:
    """The slice's place along its normal: its position (0020,0032) times the cross product of rows and columns."""
    origin = elements.numbers(dataset, "ImagePositionPatient", 3)
    axes = elements.numbers(dataset, "ImageOrientationPatient", 6)
    if origin is None or axes is None:
        return None
    a, b, c, d, e, f = axes
    x, y, z = origin
    return x * (b * f - c * e) + y * (c * d - a * f) + z * (a * e - b * d)
