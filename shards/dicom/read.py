"""One DICOM file as bytes in, a repaired slice in stored values out; or the reason why not.

Whatever is wrong with a file becomes a `Rejected`: reading never raises, and no text in it comes from the file, since
any element may hold a patient's name. The checks run from the container inwards, so that the first fault is named.
"""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pydicom.config
from pydicom import Dataset
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from shards.dicom import elements, fast_header, full_header, hounsfield, padding, stored_values
from shards.dicom.reasons import Fault, Reason, Rejected

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
"""SOP class of CT images (PS3.4 B.5)."""

_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
_LOCALIZERS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW"})
_DERIVED = frozenset(
    {"REFORMATTED", "MPR", "MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "CURVED", "VOLUME", "VRT", "SSD"}
    | {"AVERAGE", "SUBTRACTION", "CSA MPR", "CSA MIP", "CSA RESAMPLED", "SCREEN SAVE", "DOSE_INFO"}
)
_SPACINGS = (1e-3, 100.0)  # mm; a head is 200 mm wide, and a detector's cell about 0.5
_MAX_POSITION = 1e5  # mm; tables move by 2000
_MAX_NORMAL_ERROR = 0.1  # Files round cosines to two digits at the worst.
_OTHER_UNITS = re.compile(r"OD|EDW?|Z_EFF|ZEFF|MGML|PCT|IODINE.*|.*MONO.*|HU_MOD")
_MODALITIES = frozenset(
    {"CR", "CT", "DX", "MG", "MR", "NM", "OT", "PT", "RF", "RTDOSE", "RTIMAGE", "RTPLAN"}
    | {"SC", "SEG", "SR", "US", "XA"}
)


@dataclass(frozen=True)
class Slice:
    """One CT slice after repair: `HU = stored * slope + intercept`.

    Attributes:
        stored: integers of 32 bits or fewer [rows, columns], perhaps read-only: HU where all are whole numbers of 16
            bits; padding is air, inversions and wraps are undone.
        slope: HU a stored unit.
        intercept: HU of stored value 0.
        bounds: no stored value is below the first or above the second.
        spacing: mm between rows and between columns, 0.001 to 100; None where the file does not say, or nonsense.
        position: mm along the slice's normal, 100,000 at most; None likewise.
        patient: Patient ID (0010,0020) as the file has it: to be made a pseudonym, never to be written.
        study: Study Instance UID, likewise.
        series: Series Instance UID, likewise.
        uid: SOP Instance UID, likewise.
    """

    stored: stored_values.Stored
    slope: float
    intercept: float
    bounds: tuple[int, int]
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


@dataclass(frozen=True)
class _Header:
    """How an image is to be read, all of it checked.

    Attributes:
        form: the sample format.
        decoder: of the transfer syntax; None where the pixels are not encapsulated.
        inverted: MONOCHROME1.
        slope: HU a stored unit.
        intercept: HU of stored value 0.
        padding: which stored values are none.
    """

    form: stored_values.Format
    decoder: Decoder | None
    inverted: bool
    slope: float
    intercept: float
    padding: padding.Padding | None


def read(content: bytes) -> Slice | Rejected:
    """Read one file.

    Args:
        content: all bytes of the file.

    Returns:
        The slice, or why it cannot be used. Only a lack of memory is raised.
    """
    try:
        if (found := _read_plain(content)) is not None:
            return found
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


def _read(content: bytes) -> Slice:
    """The whole way."""
    dataset, syntax = full_header.parse(content)
    if "PixelData" not in dataset:
        raise Fault(Reason.NO_PIXELS, f"{len(content)} bytes")
    stored = elements.pixel_data(dataset)
    header = _header(dataset, syntax, lambda: len(stored))
    form = header.form
    cells: npt.NDArray[np.integer]
    if header.decoder is None:
        little = dataset.original_encoding[1] is not False
        cells = stored_values.native(stored, form, little=little)
    else:
        cells, form = stored_values.decompress(stored, header.decoder, form)
    return Slice(
        *_repaired(cells, form, header),
        spacing=_spacing(elements.numbers(dataset, "PixelSpacing", 2)),
        position=_position(
            elements.numbers(dataset, "ImagePositionPatient", 3),
            elements.numbers(dataset, "ImageOrientationPatient", 6),
        ),
        patient=elements.text(dataset, "PatientID"),
        study=elements.text(dataset, "StudyInstanceUID"),
        series=elements.text(dataset, "SeriesInstanceUID"),
        uid=elements.text(dataset, "SOPInstanceUID"),
    )


def _read_plain(content: bytes) -> Slice | None:
    """The short way (`shards.dicom.fast_header`), for files without any fault; None for others."""
    found = fast_header.scan(content)
    header = None if found is None else _known_header(found.common, found.syntax, found.length)
    if found is None or header is None:
        return None
    own = found.own.get
    try:
        spacing = _spacing(fast_header.decimals(own("PixelSpacing"), 2))
        position = _position(
            fast_header.decimals(own("ImagePositionPatient"), 3),
            fast_header.decimals(own("ImageOrientationPatient"), 6),
        )
        patient, study = fast_header.identifier(own("PatientID")), fast_header.identifier(own("StudyInstanceUID"))
        series, uid = fast_header.identifier(own("SeriesInstanceUID")), fast_header.identifier(own("SOPInstanceUID"))
    except fast_header.OddError:
        return None
    cells = stored_values.native(content, header.form, start=found.start)
    return Slice(*_repaired(cells, header.form, header), spacing, position, patient, study, series, uid)


@lru_cache(maxsize=1024)
def _known_header(common: tuple[fast_header.Element, ...], syntax: UID, length: int) -> _Header | None:
    """The header that these elements make; None where they hold a fault."""
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            return _header(fast_header.dataset(common, syntax), syntax, lambda: length)
    except MemoryError:
        raise
    except Exception:  # Whatever it is, the whole way names it.
        return None


def _header(dataset: Dataset, syntax: UID | None, pixel_bytes: Callable[[], int]) -> _Header:
    """Check how the image is to be read, from the container inwards.

    Raises:
        Fault: the first thing that is wrong.
    """
    rows, columns, frames = stored_values.image_size(dataset)
    samples = elements.integer(dataset, "SamplesPerPixel", 1)
    photometric = (elements.words(dataset, "PhotometricInterpretation") or ("",))[0]
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        if samples == 1 and not photometric:
            raise Fault(Reason.BAD_VALUE, "PhotometricInterpretation is missing")
        raise Fault(Reason.COLOUR, f"{samples} samples a pixel")
    if frames != 1:
        raise Fault(Reason.MULTI_FRAME, f"{frames} frames")
    decoder = None if syntax is None or syntax in _NATIVE else stored_values.find_decoder(syntax)
    if decoder is None:
        stored_values.check_length(dataset, rows, columns, pixel_bytes())
    _check_kind(dataset)
    form = stored_values.pixel_format(dataset, rows, columns)
    slope, intercept = _rescale(dataset)
    return _Header(form, decoder, photometric == "MONOCHROME1", slope, intercept, padding.find(dataset, form))


def _repaired(
    cells: npt.NDArray[np.integer], form: stored_values.Format, header: _Header
) -> tuple[stored_values.Stored, float, float, tuple[int, int]]:
    """Stored values with everything undone that scanners and archives do to them, slope, intercept and bounds.

    Args:
        cells: as stored or decoded [rows, columns].
        form: the format that they really have.
        header: of the image.

    Raises:
        Fault: the image is constant.
    """
    slope, intercept = header.slope, header.intercept
    stored, bounds = stored_values.stored_values(cells, form)
    masked = None if header.padding is None else padding.mask(header.padding, cells, stored, form, bounds)
    # Who wrote the faults went by BitsStored, whatever the codestream holds them in.
    written = form if form is header.form else dataclasses.replace(form, stored=header.form.stored)
    if header.inverted:
        stored = stored_values.undo_inversion(stored, written, slope, intercept)
    stored, slope, intercept = stored_values.undo_rsna_fault(stored, written, slope, intercept)
    if header.inverted or slope != header.slope or intercept != header.intercept:
        bounds = stored_values.extremes(stored)
    stored, slope, intercept, bounds = hounsfield.in_hounsfield(stored, slope, intercept, bounds)
    if masked is not None:
        mask, single = masked
        air = hounsfield.air_value(slope, intercept)
        stored = padding.replaced(stored, mask, air, single=single)
        bounds = (min(air, bounds[0]), max(air, bounds[1]))
    first = stored[0, 0]
    if stored[form.rows // 2, form.columns // 2] == first and not (stored != first).any():
        raise Fault(Reason.CONSTANT, f"{form.rows} x {form.columns} pixels of {first * slope + intercept:g} HU")
    return stored, slope, intercept, bounds


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


def _spacing(found: tuple[float, ...] | None) -> tuple[float, float] | None:
    """Rows and columns in mm; None where no scanner has such pixels, so that no later division meets 0 or infinity."""
    if found is None or not _SPACINGS[0] <= min(found) <= max(found) <= _SPACINGS[1]:
        return None
    return found[0], found[1]


def _position(origin: tuple[float, ...] | None, axes: tuple[float, ...] | None) -> float | None:
    """The slice's place along its normal: its position (0020,0032) times the cross product of rows and columns.

    None where the two are no directions at a right angle (their product is no unit vector then), or where the place
    is far outside any scanner: such numbers are damaged, and may be infinite in the end.
    """
    if origin is None or axes is None:
        return None
    a, b, c, d, e, f = axes
    x, y, z = origin
    right, back, up = b * f - c * e, c * d - a * f, a * e - b * d
    place = x * right + y * back + z * up
    # Both comparisons are false for NaN.
    if not (abs(math.hypot(right, back, up) - 1) <= _MAX_NORMAL_ERROR and abs(place) <= _MAX_POSITION):
        return None
    return place
