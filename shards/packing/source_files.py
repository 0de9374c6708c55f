"""Source files: in which order they are cut into shards, and which keys their samples get."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

MAX_KEY = 90
"""Characters of a key: with the longest extension it fits into a ustar name."""

KeyStyle = Literal["stem", "path", "file"]
"""What a key is made of: the file name without `.dcm`, the path without `.dcm`, or the path as it is."""

_SUFFIX = re.compile(r"\.(dcm|dicom)$", re.IGNORECASE)
_UNSAFE = re.compile(rb"[^A-Za-z0-9_/-]")


NO_FILE = -1
"""Size of what holds no bytes to be read: a link to nothing, a pipe, a socket, a device."""


@dataclass(frozen=True, slots=True)
class File:
    """A source file.

    Attributes:
        path: path below the source; bytes that are not UTF-8 are surrogates, as Python gives them.
        size: bytes, or `NO_FILE`.
        changed: time of the last change in ns since 1970, or 0. It decides which shards a resumed run makes again, and
            no byte.
    """

    path: str
    size: int
    changed: int = 0


def stem(path: str) -> str:
    """The file's name without `.dcm` or `.dicom`: what RSNA's label file calls the slice.

    >>> stem("stage_2_train/ID_000012eaf.dcm")
    'ID_000012eaf'
    """
    return _SUFFIX.sub("", path.rpartition("/")[2])


def key_style(files: Iterable[File]) -> KeyStyle:
    """`stem` where stems are unique (RSNA's are), else `path`, and `file` where `x` lies beside `x.dcm`."""
    paths = [file.path for file in files]
    if len({stem(path) for path in paths}) == len(paths):
        return "stem"
    return "path" if len({_SUFFIX.sub("", path) for path in paths}) == len(paths) else "file"


def name_of(path: str, style: KeyStyle) -> str:
    """What a key is made of, before it is made safe: unique, as a person reads it.

    >>> name_of("a b/1.2.3.dcm", "path"), name_of("a b/1.2.3.dcm", "stem"), name_of("a/x.dcm", "file")
    ('a b/1.2.3', '1.2.3', 'a/x.dcm')
    """
    return stem(path) if style == "stem" else path if style == "file" else _SUFFIX.sub("", path)


def key_of(path: str, style: KeyStyle) -> str:
    """The sample's key: unique, ASCII, without a dot (WebDataset parts key and extension at the first one).

    Characters other than letters, digits, `_`, `-` and `/` become `=` and two hexadecimal digits a byte. A key too
    long for a tar's header is cut and ends in a hash.

    >>> key_of("a b/x.1.dcm", "path")
    'a=20b/x=2E1'
    >>> key_of("a/x.dcm", "file")
    'a/x=2Edcm'
    """
    text = name_of(path, style)
    key = _UNSAFE.sub(lambda match: b"=%02X" % match[0][0], text.encode("utf-8", "surrogateescape")).decode("ascii")
    if len(key) <= MAX_KEY:
        return key
    name = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return f"{key[: MAX_KEY - 34].rstrip('/')}=={name}"


def keyed(text: str, key: str, purpose: bytes) -> bytes:
    """A number that looks random and is always the same for a text, 16 bytes: blake2b with a public key."""
    content = text.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(content, digest_size=16, key=key.encode()[:64], person=purpose).digest()


def in_order(files: Sequence[File], order_key: str) -> list[File]:
    """The files in the random but fixed order in which they are cut into shards."""
    return sorted(files, key=lambda file: (keyed(file.path, order_key, b"order"), file.path))


def digest(files: Sequence[File]) -> str:
    """SHA-256 of paths and sizes, in the order given."""
    result = hashlib.sha256()
    for file in files:
        result.update(f"{file.path}\0{file.size}\n".encode("utf-8", "surrogateescape"))
    return result.hexdigest()
