"""One DICOM file, from its bytes to a repaired CT slice, or to the reason why it is none.

Whatever is wrong with a file becomes a `Rejected`: reading raises nothing but a lack of memory. A `Rejected` quotes no
text of the file, since any element may hold a patient's name.

There are two ways to read a file. The fast way (`shards.dicom.fast_header`) takes files without any fault; the full way
(`shards.dicom.full_header`, which uses pydicom) takes all others and names their faults. Both give the same slice.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pydicom.config
from pydicom.uid import UID

from shards.dicom import elements, fast_header, full_header, hounsfield, image_header, stored_values
from shards.dicom.image_header import ImageHeader
from shards.dicom.reasons import Fault, Reason, Rejected

_SPACINGS = (1e-3, 100.0)  # mm; a head is 200 mm wide, and a detector's cell about 0.5
_MAX_POSITION = 1e5  # mm; tables move by 2000
_MAX_NORMAL_ERROR = 0.1  # The worst files round cosines to two digits.


@dataclass(frozen=True)
class Slice:
    """One CT slice after repair: `HU = stored * slope + intercept`.

    Attributes:
        stored: integers of 32 bits or fewer [rows, columns], perhaps read-only. They are HU where all HU are whole
            numbers of 16 bits. Padding is air; inversions and wraps are undone.
        slope: HU a stored unit.
        intercept: HU of stored value 0.
        bounds: no stored value is below the first or above the second.
        spacing: mm between rows and between columns, 0.001 to 100; None where the file says none or an absurd one.
        position: mm along the slice's normal, 100,000 at most; None where the file says none or an absurd one.
        patient: Patient ID (0010,0020) as the file has it. Only its pseudonym may be written.
        study: Study Instance UID (0020,000D). Only its pseudonym may be written.
        series: Series Instance UID (0020,000E). Only its pseudonym may be written.
        uid: SOP Instance UID (0008,0018), the slice's own. Only its pseudonym may be written.
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


def read_slice(content: bytes) -> Slice | Rejected:
    """Read one file.

    Args:
        content: all bytes of the file.

    Returns:
        The slice, or why it cannot be used. Only a lack of memory is raised.
    """
    try:
        if (found := _read_fast(content)) is not None:
            return found
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            return _read_full(content)
    except Fault as fault:
        return fault.rejected
    except MemoryError:
        raise
    except Exception as error:  # A file can be broken in ways that nobody foresaw; only the type is safe to tell.
        return Rejected(Reason.UNREADABLE, type(error).__name__)


def _read_full(content: bytes) -> Slice:
    """The full way.

    Raises:
        Fault: the first thing that is wrong.
    """
    dataset, syntax = full_header.parse(content)
    if "PixelData" not in dataset:
        image_header.check_without_pixels(dataset)
        raise Fault(Reason.NO_PIXELS, f"{len(content)} bytes")
    stored = elements.pixel_data(dataset)
    header = image_header.check(dataset, syntax, lambda: len(stored))
    form = header.form
    cells: npt.NDArray[np.integer]
    if header.decoder is None:
        little = dataset.original_encoding[1] is not False
        cells = stored_values.native(stored, form, little=little)
    else:
        cells, form = stored_values.decompress(stored, header.decoder, form)
    return Slice(
        *hounsfield.repaired(cells, form, header),
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


def _read_fast(content: bytes) -> Slice | None:
    """The fast way; None where the file needs the full way."""
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
    return Slice(*hounsfield.repaired(cells, header.form, header), spacing, position, patient, study, series, uid)


@lru_cache(maxsize=1024)
def _known_header(common: tuple[fast_header.Element, ...], syntax: UID, length: int) -> ImageHeader | None:
    """The checked header of these elements, remembered for the next slices; None where they hold a fault."""
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            return image_header.check(fast_header.dataset(common, syntax), syntax, lambda: length)
    except MemoryError:
        raise
    except Exception:  # Whatever it is, the full way names it.
        return None


def _spacing(found: tuple[float, ...] | None) -> tuple[float, float] | None:
    """Spacing of rows and columns in mm; None where no scanner has such pixels: no later step divides by 0."""
    if found is None or not _SPACINGS[0] <= min(found) <= max(found) <= _SPACINGS[1]:
        return None
    return found[0], found[1]


def _position(origin: tuple[float, ...] | None, axes: tuple[float, ...] | None) -> float | None:
    """The slice's place along its normal: Image Position (0020,0032) times the cross product of rows and columns.

    None where the numbers are damaged: rows and columns are not at a right angle, so that their product is no unit
    vector, or the place is far outside any scanner.
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
