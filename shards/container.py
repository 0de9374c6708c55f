"""From a file's bytes to its data set by way of pydicom: prefix, file meta information, inflating."""

from __future__ import annotations

import zlib
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from shards import elements
from shards.reason import Fault, Reason

MAX_INFLATED = 256 * 2**20
"""Bytes that a deflated data set may grow to."""

_PREFIX = slice(128, 132)
_DICOM_ROOT = b"1.2.840.10008."  # begins every UID that the standard defines (PS3.5 9)
_META_LENGTH = 12 + 132  # end of (0002,0000), the first element after the prefix (PS3.10 7.1)


def parse(content: bytes) -> tuple[Dataset, UID | None]:
    """The data set and its transfer syntax; None for a data set without file meta information.

    Args:
        content: all bytes of a file.

    Raises:
        Fault: it is no DICOM file, or cannot be parsed.
    """
    if not content:
        raise Fault(Reason.EMPTY, "0 bytes")
    prefixed = content[_PREFIX] == b"DICM"
    if not prefixed and content[:4] == b"DICM":  # The prefix without its preamble.
        content, prefixed = bytes(128) + content, True
    if not prefixed and not _starts_a_dataset(content):
        if _DICOM_ROOT in content:
            raise Fault(Reason.DAMAGED_START, f"{len(content)} bytes, no element at byte 0")
        raise Fault(Reason.NOT_DICOM, f"{len(content)} bytes")
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
