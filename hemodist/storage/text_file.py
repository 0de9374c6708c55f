"""Text files as people have them: zipped, gzipped, with a byte order mark or of UTF-16. What is read is UTF-8."""

from __future__ import annotations

import codecs
import gzip
import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

from hemodist.errors import ConfigError
from hemodist.storage.store import Store

MAX_BYTES = 2**28
"""Most bytes of a file, unpacked: twice RSNA's label file."""

_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def place(uri: str) -> tuple[Store, str]:
    """The folder of a file, and the file's name in it; links of a local path are followed."""
    folder, _, name = uri.rpartition("/") if "://" in uri else str(Path(uri).expanduser().resolve()).rpartition("/")
    return Store.open(folder or "/"), name


def read(uri: str, what: str) -> bytes:
    """The text of a file in UTF-8, unpacked and without a byte order mark.

    Args:
        uri: its path or URI.
        what: what it is, for messages: `the label file`.

    Raises:
        ConfigError: it is missing, larger than `MAX_BYTES`, damaged, or no text.
        StoreError: it cannot be read.
    """
    store, name = place(uri)
    size = store.size(name)
    if size is None:
        raise ConfigError(f"{what} {uri} does not exist; give the path of a file")
    _check_size(size, f"{what} {uri}")
    content = store.read(name)
    try:
        if content.startswith(b"PK\x03\x04"):
            content = _zipped(content, f"{what} {uri}")
        elif content.startswith(b"\x1f\x8b"):
            content = _bounded(lambda: gzip.GzipFile(fileobj=io.BytesIO(content)), f"{what} {uri}")
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:  # the last one: a password
        raise ConfigError(f"{what} {uri} cannot be unpacked ({error}); unpack it, or fetch it again") from error
    try:
        for mark, encoding in _MARKS.items():
            if content.startswith(mark):
                return content[len(mark) :].decode(encoding).encode()
        content.decode()
    except UnicodeError as error:
        raise ConfigError(f"{what} {uri} is not text in UTF-8 or UTF-16 ({error}); save it as UTF-8") from error
    return content


def _zipped(content: bytes, where: str) -> bytes:
    archive = zipfile.ZipFile(io.BytesIO(content))
    held = [one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
    if len(held) != 1:
        raise ConfigError(f"{where} holds {len(held)} files, not one; unpack it, and name the one that is meant")
    return _bounded(lambda: archive.open(held[0]), where)


def _bounded(opened: Callable[[], IO[bytes] | gzip.GzipFile], where: str) -> bytes:
    found = io.BytesIO()
    with opened() as stream:
        while part := stream.read(2**20):
            found.write(part)
            _check_size(found.tell(), where)
    return found.getvalue()


def _check_size(size: int, where: str) -> None:
    if size > MAX_BYTES:
        raise ConfigError(f"{where} has more than {MAX_BYTES:,} bytes; RSNA's label file has 120 million")
