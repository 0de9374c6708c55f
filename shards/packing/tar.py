"""A WebDataset tar and its DALI index. The same members give the same bytes, wherever and whenever they are written."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = 512
"""Bytes of a header, and the unit to which contents are filled up (POSIX.1-1988 ustar)."""

INDEX_VERSION = "v1.2"
"""Format of the index file that DALI's `fn.readers.webdataset` reads."""

MAX_NAME = 100
"""Bytes of a member's name in a ustar header; the key is shortened to fit, so the prefix field stays empty."""

_FIRST = 2**20  # bytes of a writer's buffer before it grows
_SPARE: list[bytearray] = []
"""Buffers of finished writers, for the next writers: fresh pages from the kernel cost more time than filling them."""

_MAX_SIZE = 8**11 - 1


class TarError(ValueError):
    """The bytes are not a whole tar of this module's kind."""


@dataclass(frozen=True)
class Member:
    """One file in a tar: its name, and where its bytes are."""

    name: str
    offset: int
    size: int


class TarWriter:
    """Collects the members of a tar in memory, since a shard is written in one piece.

    It is a context manager: at the end its buffer goes to the next writer.

    Attributes:
        members: what has been added, in order.
    """

    def __init__(self) -> None:
        self.members: list[Member] = []
        self._content = _SPARE.pop() if _SPARE else bytearray(_FIRST)
        self._size = 0
        self._digest = hashlib.sha256()
        self._whole: memoryview | None = None

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BufferError):  # somebody still reads it: then it is not used again
            if self._whole is not None:
                self._whole.release()
            self._content.append(0)  # refused while anybody else looks at it
            _SPARE.append(self._content)

    def add(self, name: str, content: bytes) -> Member:
        """Append a file.

        Raises:
            TarError: the name is too long or not ASCII, or the content too large, for a ustar header.
        """
        if len(name) > MAX_NAME or not name.isascii() or len(content) > _MAX_SIZE:
            raise TarError(f"{name}: a name holds {MAX_NAME} ASCII characters and a file {_MAX_SIZE} bytes at most")
        start = self._size + BLOCK
        self._append(_header(name, len(content)) + content + bytes(-len(content) % BLOCK))
        member = Member(name, start, len(content))
        self.members.append(member)
        return member

    def finish(self) -> tuple[memoryview, str]:
        """The whole tar (what was added, and two empty blocks) and its SHA-256 in hexadecimal digits.

        The view holds until the writer's context ends; nothing can be added after it.
        """
        self._append(bytes(2 * BLOCK))
        self._whole = self.so_far()
        return self._whole, self._digest.hexdigest()

    def so_far(self) -> memoryview:
        """What has been added, read-only; to be released before more is added."""
        with memoryview(self._content) as everything:
            return everything[: self._size].toreadonly()

    def _append(self, content: bytes) -> None:
        # One buffer, which grows by doubling: kept apart, the contents would split the memory that slices reuse.
        end = self._size + len(content)
        if end > len(self._content):
            self._content += bytes(end)
        self._content[self._size : end] = content
        self._size = end
        self._digest.update(content)  # while the processor's caches still hold it


def index_file(members: list[Member]) -> bytes:
    r"""DALI's index: a line with the number of samples, then a line a sample with `extension offset size name` a file.

    >>> index_file([Member("a.jpg", 512, 3), Member("a.json", 1536, 2)])
    b'v1.2 1\njpg 512 3 a.jpg json 1536 2 a.json\n'
    """
    samples: dict[str, list[str]] = {}
    for member in members:
        key, extension = split_name(member.name)
        samples.setdefault(key, []).append(f"{extension} {member.offset} {member.size} {member.name}")
    lines = [f"{INDEX_VERSION} {len(samples)}", *(" ".join(files) for files in samples.values())]
    return ("\n".join(lines) + "\n").encode()


def index_name(tar_name: str) -> str:
    """Name of a tar's DALI index, which lies beside the tar.

    >>> index_name("shards/000000.tar")
    'shards/000000.idx'
    """
    return tar_name.removesuffix(".tar") + ".idx"


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member, parted at the first dot of its base name, as WebDataset does.

    >>> split_name("a.b/c.d.jpg")
    ('a.b/c', 'd.jpg')
    """
    dot = name.index(".", name.rfind("/") + 1)
    return name[:dot], name[dot + 1 :]


def read_members(content: bytes) -> Iterator[Member]:
    """The members of a tar, each header checked against its checksum.

    Raises:
        TarError: a header is damaged, or the tar is cut short.
    """
    position = 0
    while content[position : position + BLOCK] != bytes(BLOCK):
        header = content[position : position + BLOCK]
        if len(header) < BLOCK:
            raise TarError(f"the tar ends at byte {len(content)} without its end mark")
        name = header[:MAX_NAME].rstrip(b"\0").decode("ascii", "replace")
        try:
            size, checksum = int(header[124:135], 8), int(header[148:154], 8)
        except ValueError as error:
            raise TarError(f"the header at byte {position} is damaged") from error
        if checksum != _checksum(header):
            raise TarError(f"the header at byte {position} does not match its checksum")
        yield Member(name, position + BLOCK, size)
        position += BLOCK + size + -size % BLOCK


def _header(name: str, size: int) -> bytes:
    header = bytearray(_PLAIN_HEADER)
    header[: len(name)] = name.encode("ascii")
    header[124:135] = b"%011o" % size
    header[148:156] = b"%06o\0 " % (_PLAIN_SUM + sum(header[: len(name)]) + sum(header[124:135]))
    return bytes(header)


def _plain_header() -> bytes:
    # A plain file, mode 0644, owner and time 0: nothing that depends on who writes when.
    fields = [
        bytes(100),
        b"0000644\0" + b"0000000\0" * 2,
        bytes(11) + b"\0",
        b"00000000000\0",
        b" " * 8,
        b"0".ljust(101, b"\0"),
        b"ustar\x0000",
    ]
    return b"".join(fields).ljust(BLOCK, b"\0")


_PLAIN_HEADER = _plain_header()
_PLAIN_SUM = sum(_PLAIN_HEADER)


def _checksum(header: bytes) -> int:
    """Sum of the header's bytes, the checksum's own eight counted as spaces."""
    return sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
