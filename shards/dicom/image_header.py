"""How an image is to be read, by its header: every check that needs no pixels, from the container inwards.

The first fault that is found is the one that is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from shards.dicom import elements, padding, stored_values
from shards.dicom.reasons import Fault, Reason

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
"""SOP class of CT images (PS3.4 B.5)."""

_STANDARD_CLASSES = "1.2.840.10008."
"""Begins every UID of the standard (PS3.5 9)."""

_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
_LOCALIZERS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW"})
_DERIVED = frozenset(
    {"MAX_IP", "MIN_IP", "PROJECTION IMAGE", "VOLUME", "AVERAGE", "CSA RESAMPLED", "SCREEN SAVE", "DOSE_INFO"}
)
_DERIVED_WORDS = frozenset(
    {"MPR", "MIP", "MINIP", "VRT", "SSD", "REFORMATTED", "CURVED", "SUBTRACTION"}
    | {"CBF", "CBV", "RCBF", "RCBV", "MTT", "TTP", "TTD", "TTS", "TMAX", "PBV", "PBM", "KTRANS", "PERMEABILITY"}
)
"""Of reformations and of maps of perfusion, wherever they stand in a value such as `CSA MPR` or `CBF_MAP`."""

_MAPS = frozenset({"PERFUSION", "MAP", "COLOR"})
"""Of maps where an image says DERIVED; the scan that a map was made from may say PERFUSION, and is HU."""

_OTHER_UNITS = re.compile(r"OD|EDW?|Z_EFF|ZEFF|MGML|PCT|IODINE.*|.*MONO.*|HU_MOD")
_MODALITIES = frozenset(
    {"CR", "CT", "DX", "MG", "MR", "NM", "OT", "PT", "RF", "RTDOSE", "RTIMAGE", "RTPLAN"}
    | {"SC", "SEG", "SR", "US", "XA"}
)


@dataclass(frozen=True)
class ImageHeader:
    """How an image is to be read. Everything in it has been checked.

    Attributes:
        form: how the pixels are stored.
        decoder: decoder of the transfer syntax; None where the pixels are not encapsulated.
        inverted: whether the image is MONOCHROME1.
        slope: HU a stored unit.
        intercept: HU of stored value 0.
        padding: which stored values are padding; None where the file does not say.
    """

    form: stored_values.PixelFormat
    decoder: Decoder | None
    inverted: bool
    slope: float
    intercept: float
    padding: padding.Padding | None


def check(dataset: Dataset, syntax: UID | None, pixel_bytes: Callable[[], int]) -> ImageHeader:
    """Check how the image is to be read, from the container inwards.

    Args:
        dataset: the file's elements.
        syntax: the transfer syntax; None for a file without file meta information.
        pixel_bytes: gives the number of bytes of PixelData.

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
        _check_modality(dataset)
        raise Fault(Reason.MULTI_FRAME, f"{frames} frames")
    decoder = None if syntax is None or syntax in _NATIVE else stored_values.find_decoder(syntax)
    if decoder is None:
        stored_values.check_length(dataset, rows, columns, pixel_bytes())
    _check_kind(dataset)
    form = stored_values.pixel_format(dataset, rows, columns)
    slope, intercept = _rescale(dataset)
    return ImageHeader(form, decoder, photometric == "MONOCHROME1", slope, intercept, padding.find(dataset, form))


def check_without_pixels(dataset: Dataset) -> None:
    """Tell what is no CT image by its class, and so needs no pixels, from a CT image that lost them.

    Raises:
        Fault: it is no CT image.
    """
    kind = elements.text(dataset, "SOPClassUID") or elements.text(dataset.file_meta, "MediaStorageSOPClassUID")
    if kind is not None and kind != CT_IMAGE_STORAGE and not kind.startswith(f"{CT_IMAGE_STORAGE}."):
        name = UID(kind).name  # by the standard's list; the UID itself where it is not there
        raise Fault(Reason.NO_IMAGE, "a class that is unknown" if name == kind else name)
    _check_modality(dataset, CT_IMAGE_STORAGE)


def _check_modality(dataset: Dataset, kind: str | None = None) -> None:
    """Accept CT only.

    Args:
        dataset: the file's elements.
        kind: the SOP class where no modality is given; by default the file's own.

    Raises:
        Fault: another modality.
    """
    modality = (elements.words(dataset, "Modality") or ("",))[0]
    if modality != "CT" and (modality or (kind or elements.text(dataset, "SOPClassUID")) != CT_IMAGE_STORAGE):
        raise Fault(Reason.WRONG_MODALITY, modality if modality in _MODALITIES else "unknown or missing")


def _check_kind(dataset: Dataset) -> None:
    """Accept reconstructed CT slices only.

    Raises:
        Fault: another modality or class, a localizer, or an image made from images.
    """
    _check_modality(dataset)
    # Private classes and those of an anonymizer say nothing; Enhanced CT and its kin begin like CT.
    of = elements.text(dataset, "SOPClassUID")
    if of is not None and of.startswith(_STANDARD_CLASSES) and not f"{of}.".startswith(f"{CT_IMAGE_STORAGE}."):
        name = UID(of).name  # by the standard's list; the UID itself where it is not there
        raise Fault(Reason.SECONDARY_CAPTURE, "a class that is unknown" if name == of else name)
    kind = elements.words(dataset, "ImageType")
    if localizer := _LOCALIZERS.intersection(kind):
        raise Fault(Reason.LOCALIZER, min(localizer))
    words = set(re.findall(r"[A-Z]+", " ".join(kind[2:])))
    made_of_images = _DERIVED_WORDS | _MAPS if kind[:1] == ("DERIVED",) else _DERIVED_WORDS
    if derived := _DERIVED.intersection(kind[2:]) | made_of_images.intersection(words):
        raise Fault(Reason.DERIVED, min(derived))
    # A slice that was compressed says DERIVED\PRIMARY\AXIAL or DERIVED\SECONDARY\AXIAL, and is still a slice.
    if kind[:2] == ("DERIVED", "SECONDARY") and not (of == CT_IMAGE_STORAGE and "AXIAL" in kind[2:]):
        raise Fault(Reason.DERIVED, "DERIVED, SECONDARY")


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
