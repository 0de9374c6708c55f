"""The full way from a file's bytes to its elements: pydicom's parser, with limits that it does not have itself.

It deals with what the fast way leaves: a missing preamble, deflated files, odd elements, damage.
"""

from __future__ import annotations

import zlib
from io import BytesIO

from pydicom import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from shards.dicom import elements, fast_header
from shards.dicom.reasons import Fault, Reason

MAX_INFLATED = 256 * 2**20
"""Most bytes that a deflated data set may grow to."""

MAX_READS = 200_000
"""Most reads of an element's head or value, nested ones included. A slice has some hundred elements, two reads each.

pydicom takes 3 us and up to 2 kB for one of them, and 32 million of them fit into the largest file.
"""

MAX_HEADER_BYTES = 4 * 2**20
"""Most bytes that are read beside the pixels. Large values that nobody asks for are skipped and do not count.

The limit is low because two bytes in a file may become 140 in memory: a nested data set can name millions of character
sets.
"""

MAX_VALUE_BYTES = 2**16
"""Most bytes of a list of character sets, the one value that pydicom takes apart while it reads."""

_CHARACTER_SET, _PIXELS = 0x00080005, 0x7FE00010
_PREFIX = slice(128, 132)
_DICOM_ROOT = b"1.2.840.10008."  # begins every UID that the standard defines (PS3.5 9)
_ARCHIVES = {
    b"PK\x03\x04": "zip", b"\x1f\x8b\x08": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"\x1f\x9d": "compress",
}  # fmt: skip
"""Names of archives by their first bytes; a tar has its mark at byte 257."""

_DOCUMENTS = (b"[Content_Types].xml", b"META-INF/", b"mimetype")
"""Of a document or a program that is a zip file inside, how the name of its first member begins; NumPy's is `.npy`."""

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
    if not prefixed and (archive := _archive(content)):
        raise Fault(Reason.PACKED, f"{archive} of {len(content)} bytes; unpack it")
    if not prefixed and not _starts_a_dataset(content):
        if _DICOM_ROOT in content:
            raise Fault(Reason.DAMAGED_START, f"{len(content)} bytes, no element at byte 0")
        raise Fault(Reason.NOT_DICOM, f"{len(content)} bytes")
    source = _Bounded(_inflated(content))
    try:
        dataset = read_partial(source, source.at_element, force=True, specific_tags=list(fast_header.TAGS))
    except (Fault, MemoryError):
        raise
    except Exception as error:
        source.check()  # pydicom makes errors of its own from some that it meets.
        raise Fault(Reason.UNREADABLE, type(error).__name__) from error
    source.check()
    syntax = elements.text(dataset.file_meta, "TransferSyntaxUID")
    if syntax is None and (prefixed or len(dataset.file_meta)):
        raise Fault(Reason.MISSING_TRANSFER_SYNTAX, f"{len(dataset.file_meta)} elements of file meta information")
    return dataset, None if syntax is None else UID(syntax)


class _Bounded(BytesIO):
    """A file that ends the reading with a `Fault` after so many reads or bytes: pydicom has no such limit."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._length = len(content)
        self._reads = self._bytes = 0
        self._allowed = MAX_HEADER_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, and count it."""
        found = super().read(size)
        self._reads += 1
        self._bytes += len(found)
        if self._reads > MAX_READS or self._bytes > self._allowed:
            self.check()
        return found

    def check(self) -> None:
        """Raise a Fault where the limits are reached."""
        if self._reads > MAX_READS:
            raise Fault(Reason.UNREADABLE, f"more than {MAX_READS} reads of elements, nested ones included")
        if self._bytes > self._allowed:
            raise Fault(Reason.UNREADABLE, f"more than {MAX_HEADER_BYTES} bytes of elements beside the pixels")

    def at_element(self, tag: BaseTag, _: str | None, length: int) -> bool:
        """Whether to stop before this element's value; pydicom asks for each element that is not nested."""
        if tag == _PIXELS:
            self._allowed = MAX_HEADER_BYTES + self._length
        if tag == _CHARACTER_SET and length > MAX_VALUE_BYTES:
            raise Fault(Reason.UNREADABLE, f"a character set of {length} bytes, at most {MAX_VALUE_BYTES} are read")
        return tag == 0 and self._allowed > MAX_HEADER_BYTES  # zeros that fill up a block after the pixels


def _archive(content: bytes) -> str | None:
    """The kind of an archive; None where the file is none, or a document that nobody unpacks."""
    if content[257:262] == b"ustar":
        return "tar"
    if content.startswith(b"PK\x03\x04"):
        first = content[30 : 30 + int.from_bytes(content[26:28], "little")]  # name of the first member
        if first.startswith(_DOCUMENTS) or first.endswith(b".npy"):
            return None
    return next((name for start, name in _ARCHIVES.items() if content.startswith(start)), None)


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
        body = inflater.decompress(memoryview(content)[start:], MAX_INFLATED)
    except zlib.error as error:
        raise Fault(Reason.UNREADABLE, "the deflated data set is damaged") from error
    if inflater.unconsumed_tail:
        raise Fault(Reason.ABSURD_SIZE, f"the deflated data set is larger than {MAX_INFLATED} bytes")
    explicit = ExplicitVRLittleEndian.encode().ljust(len(deflated), b"\0")
    return content[:start].replace(deflated, explicit) + body
