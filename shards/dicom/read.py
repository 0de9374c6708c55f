"""One DICOM file, from its bytes to a repaired CT slice, or to the reason why it is none.

Whatever is wrong with a file becomes a `Rejected`: reading raises nothing but a lack of memory. A `Rejected` quotes no
text of the file, since any element may hold a patient's name.

There are two ways to read a file. The fast way (`shards.dicom.fast_header`) takes files without any fault; the full way
(`shards.dicom.full_header`, which uses pydicom) takes all others and names their faults. Both give the same slice.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pydicom.config
from pydicom.uid import UID

from shards.dicom import elements, fast_header, full_header, hounsfield, image_header, orientation, stored_values
from shards.dicom.image_header import ImageHeader
from shards.dicom.reasons import Fault, Reason, Rejected

_IDENTIFIERS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
"""In the order of `Slice`'s last fields."""


@dataclass(frozen=True)
class Slice:
    """One CT slice after repair: `HU = stored * slope + intercept`.

    Attributes:
        stored: integers of 32 bits or fewer [rows, columns], perhaps read-only, rows from the patient's front to back
            and columns from right to left. They are HU where all HU are whole numbers of 16 bits. Padding is air;
            inversions and wraps are undone.
        slope: HU a stored unit.
        intercept: HU of stored value 0.
        bounds: no stored value is below the first or above the second.
        inverted: of MONOCHROME1, whether the file has its values inverted; None of all others.
        spacing: mm between rows and between columns, 0.001 to 100; None where the file says none or an absurd one.
        position: mm along the slice's normal, which points to the patient's head, 100,000 at most; None where the file
            says none or an absurd one.
        patient: Patient ID (0010,0020) as the file has it. Only its pseudonym may be written.
        study: Study Instance UID (0020,000D). Only its pseudonym may be written.
        series: Series Instance UID (0020,000E). Only its pseudonym may be written.
        uid: SOP Instance UID (0008,0018), the slice's own. Only its pseudonym may be written.
    """

    stored: stored_values.Stored
    slope: float
    intercept: float
    bounds: tuple[int, int]
    inverted: bool | None
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
    placement = orientation.place(
        elements.numbers(dataset, "PixelSpacing", 2),
        elements.numbers(dataset, "ImagePositionPatient", 3),
        elements.numbers(dataset, "ImageOrientationPatient", 6),
    )
    form = header.form
    cells: npt.NDArray[np.integer]
    if header.decoder is None:
        little = dataset.original_encoding[1] is not False
        cells = stored_values.native(stored, form, little=little)
    else:
        cells, form = stored_values.decompress(stored, header.decoder, form)
    return _made(cells, form, header, placement, [elements.text(dataset, name) for name in _IDENTIFIERS])


def _read_fast(content: bytes) -> Slice | None:
    """The fast way; None where the file needs the full way."""
    found = fast_header.scan(content)
    header = None if found is None else _known_header(found.common, found.syntax, found.length)
    if found is None or header is None:
        return None
    own = found.own.get
    try:
        lengths = fast_header.decimals(own("PixelSpacing"), 2)
        origin = fast_header.decimals(own("ImagePositionPatient"), 3)
        axes = fast_header.decimals(own("ImageOrientationPatient"), 6)
        identifiers = [fast_header.identifier(own(name)) for name in _IDENTIFIERS]
    except fast_header.OddError:
        return None
    placement = orientation.place(lengths, origin, axes)
    cells = stored_values.native(content, header.form, start=found.start)
    return _made(cells, header.form, header, placement, identifiers)


def _made(
    cells: npt.NDArray[np.integer],
    form: stored_values.PixelFormat,
    header: ImageHeader,
    placement: orientation.Placement,
    identifiers: Sequence[str | None],
) -> Slice:
    """The slice of these stored values; `identifiers` as in `_IDENTIFIERS`.

    Raises:
        Fault: the values cannot be HU.
    """
    values, slope, intercept, bounds, inverted = hounsfield.repaired(cells, form, header)
    spacing, position = placement.spacing, placement.position
    return Slice(placement.turned(values), slope, intercept, bounds, inverted, spacing, position, *identifiers)


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
