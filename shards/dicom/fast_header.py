"""The fast way from a file's bytes to its elements: one pass, which makes no object for an element that nobody wants.

Reading with pydicom takes as long as encoding the picture, and most CT files are plain and need little of what pydicom
can do. A plain file has a prefix, file meta information, and little endian elements in rising order that end with the
file. For such a file `scan` gives the bytes of the elements that matter. For any other file it gives None, and
`shards.dicom.read` goes the full way, which also names the fault. Tests compare both ways, on damaged files too.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import repeat

from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

Element = tuple[int, bytes, bytes]
"""Tag, value representation (empty where the syntax leaves it out) and value."""

_PREFIX, _START = slice(128, 132), 132
_EXPLICIT = struct.Struct("<HH2sH")  # group, element, VR, length (PS3.5 7.1.2)
_LENGTH = struct.Struct("<I")
_SHORT_VRS = frozenset(name.encode() for name in EXPLICIT_VR_LENGTH_16)
_LONG_VRS = frozenset(name.encode() for name in EXPLICIT_VR_LENGTH_32)
_SYNTAXES = {name.encode(): UID(name) for name in (ImplicitVRLittleEndian, ExplicitVRLittleEndian)}
_META, _SYNTAX, _CHARACTER_SET, _PIXELS = 0x0002, 0x00020010, 0x00080005, 0x7FE00010
_ASCII_SETS = frozenset({b"", b"ISO_IR 6", b"ISO_IR 100", b"ISO_IR 192"})  # in which ASCII means itself
_MAX_VALUE = 256  # bytes of a value that is worth remembering or taking apart
_MAX_ELEMENTS = 10_000  # A slice has some hundred; the full way says how many are too many.
_DECIMAL = b"0123456789+-.eE \\"

_IMAGE = ("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated")
_VALUES = ("BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit")
_RESCALE = ("RescaleIntercept", "RescaleSlope", "RescaleType")
_COMMON = ("ImageType", "SOPClassUID", "Modality", *_IMAGE, *_VALUES, *_RESCALE)
"""Elements that say how an image is to be read. A scanner writes the same ones into all its slices."""

_IDENTIFIERS = ("SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID")
_OWN = (*_IDENTIFIERS, "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
"""Elements that differ from slice to slice or from series to series."""

_TAGS = {keyword: Tag(keyword) for keyword in _COMMON + _OWN}
_OWN_TAGS = {int(_TAGS[keyword]): keyword for keyword in _OWN}
TAGS = (*_TAGS.values(), Tag(_PIXELS))
"""Every element that is used, by either way."""

_WANTED = {int(tag): frozenset(dictionary_VR(tag).encode().split(b" or ")) for tag in _TAGS.values()}
"""The value representations that PS3.6 gives an element, by tag; an element with another one needs the full way."""


class OddError(ValueError):
    """A value that the fast way does not understand; the full way may."""


@dataclass(frozen=True)
class PlainFile:
    """What a plain file holds.

    Attributes:
        syntax: transfer syntax, one of two.
        common: the elements that say how the image is to be read, by rising tags;
            hashable, so that what they mean can be remembered.
        own: values by keyword of the slice's own elements, those that are there.
        start: where the pixels begin, in bytes from the beginning of the file.
        length: bytes of the pixels.
    """

    syntax: UID
    common: tuple[Element, ...]
    own: dict[str, bytes]
    start: int
    length: int


def scan(content: bytes) -> PlainFile | None:
    """Find the elements of a plain file; None for files of any other kind."""
    if content[_PREFIX] != b"DICM":
        return None
    position, end, last = _START, len(content), 0
    syntax: UID | None = None
    implicit: bool | None = None  # until the meta information ends
    start = length = -1
    common: list[Element] = []
    own: dict[str, bytes] = {}
    for _ in repeat(None, _MAX_ELEMENTS):
        if position + 8 > end:
            break
        group, number, kind, size = _EXPLICIT.unpack_from(content, position)
        tag = group << 16 | number
        if tag <= last:
            return None
        last = tag
        if implicit is None and group != _META:
            implicit = syntax == ImplicitVRLittleEndian
            if syntax is None or (implicit and kind.isalpha() and kind.isupper()):
                return None
        position += 8
        if implicit:
            kind, size = b"", _LENGTH.unpack_from(content, position - 4)[0]
        elif kind in _LONG_VRS:
            if position + 4 > end:
                return None
            size = _LENGTH.unpack_from(content, position)[0]
            position += 4
        elif kind not in _SHORT_VRS:
            return None
        if tag in _WANTED:
            if size > _MAX_VALUE or (kind and kind not in _WANTED[tag]):
                return None
            value = content[position : position + size]
            if tag in _OWN_TAGS:
                own[_OWN_TAGS[tag]] = value
            elif value:  # an empty element is a missing one
                common.append((tag, kind, value))
        elif tag == _PIXELS:
            start, length = position, size
        elif tag == _SYNTAX:
            syntax = _SYNTAXES.get(content[position : position + size].rstrip(b" \0")) if kind == b"UI" else None
        elif tag == _CHARACTER_SET and (
            kind not in (b"", b"CS") or content[position : position + size].strip(b" \0") not in _ASCII_SETS
        ):
            return None
        position += size
    return (
        None if position != end or start < 0 or syntax is None else PlainFile(syntax, tuple(common), own, start, length)
    )


def dataset(common: tuple[Element, ...], syntax: UID) -> Dataset:
    """The data set of some elements, as pydicom would have read them."""
    implicit = bool(syntax.is_implicit_VR)
    made = Dataset(
        {
            Tag(tag): RawDataElement(Tag(tag), kind.decode() or None, len(value), value, 0, implicit, True)
            for tag, kind, value in common
        }
    )
    made.set_original_encoding(implicit, True)
    return made


def decimals(value: bytes | None, count: int) -> tuple[float, ...] | None:
    """The numbers of a decimal string (PS3.5 6.2, DS); None for a missing one.

    Raises:
        OddError: it does not hold `count` plain numbers.
    """
    if not value:
        return None
    if value.translate(None, _DECIMAL):
        raise OddError
    try:
        found = tuple(map(float, value.split(b"\\")))
    except ValueError as error:
        raise OddError from error
    if len(found) != count or not all(-1e30 < number < 1e30 for number in found):
        raise OddError
    return found


def identifier(value: bytes | None) -> str | None:
    """An identifier as text; None for a missing or empty one.

    Raises:
        OddError: it is not one value of printable ASCII characters.
    """
    if not value:
        return None
    text = value.decode("latin-1").strip(" \0")
    if not text.isascii() or not text.isprintable() or "\\" in text:
        raise OddError
    return text or None
