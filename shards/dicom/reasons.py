"""Why a source file is not a sample: the codes of `rejected.parquet`, and which of them are faults."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """A reason's code, with its `meaning` in one line."""

    meaning: str

    def __new__(cls, code: str, meaning: str) -> Reason:
        """A member whose value is the code."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    EMPTY = "empty", "the file holds no byte"
    NOT_A_FILE = "not_a_file", "a link to nothing, a pipe, a socket or a device"
    NO_ACCESS = "no_access", "the file's rights do not allow reading it"
    NOT_DICOM = "not_dicom", "no DICM prefix, no data set at the start, and no DICOM identifier anywhere"
    PACKED = "packed", "an archive (zip, gzip, tar, 7z and the like), perhaps of slices; unpack it"
    DAMAGED_START = (
        "damaged_start",
        "DICOM identifiers are there, but neither a DICM prefix nor a data set at the start",
    )
    UNREADABLE = "unreadable", "the data set cannot be parsed"
    MISSING_TRANSFER_SYNTAX = "missing_transfer_syntax", "a DICM prefix, but no TransferSyntaxUID to read the rest by"
    NO_PIXELS = "no_pixels", "no PixelData: a file cut off before its pixels (within them where compressed)"
    NO_IMAGE = (
        "no_image",
        "no PixelData, and no CT image by its class: a DICOMDIR, a report, a plan, a presentation state",
    )
    BAD_VALUE = "bad_value", "an element that the image needs is missing or is not a valid number"
    ABSURD_SIZE = "absurd_size", "rows, columns or frames are zero, or beyond any CT slice; nothing was allocated"
    COLOUR = "colour", "more than one sample a pixel, or a palette: no CT values"
    MULTI_FRAME = "multi_frame", "more than one frame in the file"
    TRUNCATED_PIXELS = "truncated_pixels", "fewer pixel bytes than rows x columns need"
    UNDECODABLE_SYNTAX = (
        "undecodable_syntax",
        "no decoder for this transfer syntax, such as lossy JPEG of 12 bits (1.2.840.10008.1.2.4.51)",
    )
    WRONG_MODALITY = "wrong_modality", "not a CT image"
    LOCALIZER = "localizer", "a localizer (scout, topogram), not a slice"
    DERIVED = "derived", "a reformation, a projection or a secondary image, not a reconstructed slice"
    UNSUPPORTED_BITS = "unsupported_bits", "a sample format other than 8 or 16 bits allocated"
    NOT_HOUNSFIELD = "not_hounsfield", "no linear rescale to HU: slope or intercept missing, or another RescaleType"
    CODESTREAM_MISMATCH = "codestream_mismatch", "the compressed image's own header contradicts the DICOM header"
    UNDECODABLE_PIXELS = "undecodable_pixels", "the decoder failed on the compressed pixels"
    CONSTANT = "constant", "all pixels have one value"
    LITTLE_BRAIN = "little_brain", "fewer pixels in 0 to 80 HU than --min-brain-fraction asks for"
    NOT_SELECTED = "not_selected", "left out by --selection"
    SECONDARY_CAPTURE = (
        "secondary_capture",
        "by its class a picture (a screenshot, a scan of film) or a map, not CT values",
    )
    NOT_AXIAL = "not_axial", "a slice in another plane: its normal is more than 45 degrees off the patient's long axis"
    NO_AIR = "no_air", "no pixel below 0 HU: greys of a picture, clipped values or a wrong intercept"
    SIGN_LOST = "sign_lost", "PixelRepresentation says unsigned, but the pixels hold negative values (two's complement)"
    SCRAMBLED = "scrambled", "far more extreme values or jumps than any CT: damaged pixels, or a decoder that wraps"
    COARSE_GREYS = "coarse_greys", "one grey step is more than 10 HU: the brain window has a few levels only"
    POLARITY = (
        "polarity",
        "a MONOCHROME1 image whose values show a head only where they are inverted in their own range",
    )


class Kind(StrEnum):
    """What a rejected file is. Only faulty files count against `--max-rejected-fraction`."""

    FAULTY = "faulty"
    NO_SLICE = "not meant to be a slice"
    BY_CHOICE = "left out by a flag"


_KINDS: dict[str, Kind] = {
    Reason.LOCALIZER: Kind.NO_SLICE,
    Reason.WRONG_MODALITY: Kind.NO_SLICE,
    Reason.NO_IMAGE: Kind.NO_SLICE,
    Reason.COLOUR: Kind.NO_SLICE,
    Reason.DERIVED: Kind.NO_SLICE,
    Reason.SECONDARY_CAPTURE: Kind.NO_SLICE,
    Reason.NOT_AXIAL: Kind.NO_SLICE,
    Reason.LITTLE_BRAIN: Kind.BY_CHOICE,
    Reason.NOT_SELECTED: Kind.BY_CHOICE,
}
"""All other reasons are faults: among them those that may hide slices, such as archives and multi-frame files."""

_OTHER_NAME = re.compile(
    r".*\.(bat|bmp|chm|cmd|css|csv|db|dll|docx?|exe|gif|html?|icns|ico|inf|ini|jar|jpe?g|js|json|log|lnk|md|np[yz]|pdf|png"
    r"|rtf|svg|tiff?|tsv|txt|url|xlsx?|xml|xsl|ya?ml)",
    re.IGNORECASE | re.DOTALL,
)
"""Of files that lie beside slices: an export's viewer, a note, the phantom's masks. Others may be slices gone wrong."""


def kind_of(reason: str, path: str) -> Kind:
    """What a rejected file is.

    Args:
        reason: a `Reason`, or another code, which is a fault.
        path: of the file. What is no DICOM is a fault unless its name says that it is something else.

    >>> kind_of("not_dicom", "CD/AUTORUN.INF").value, kind_of("not_dicom", "CD/IM0001").value
    ('not meant to be a slice', 'faulty')
    """
    if reason == Reason.NOT_DICOM and _OTHER_NAME.fullmatch(path):
        return Kind.NO_SLICE
    return _KINDS.get(reason, Kind.FAULTY)


@dataclass(frozen=True)
class Rejected:
    """A file that cannot be used.

    Attributes:
        reason: which fault.
        detail: the numbers; nothing from the file's text, since any element may hold a patient's name.
    """

    reason: Reason
    detail: str


class Fault(Exception):  # noqa: N818 - not an error of the program, but a finding about a file
    """Ends the reading of a file; becomes a `Rejected`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.rejected = Rejected(reason, detail)
