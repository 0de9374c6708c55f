"""Files on local folders, NFS, S3 and GCS, through pyarrow; a file is written whole or not at all.

A `Store` is a root, given as a path or a URI, below which names are relative and use `/`. Reading and writing go
through `pyarrow.fs`, so `s3://` honours `AWS_ENDPOINT_URL` (MinIO and the like) and the usual credential chain.

An error that may pass by itself is tried again, by pyarrow (a store that is busy, a connection that breaks) or here
(a body cut short, a read error of NFS); one that stays is a `StoreError`. Every length is checked, so that no file is
ever returned that was cut short.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow.fs as pafs

from hemodist.errors import UserError
from hemodist.storage.local_files import PARTIAL_SUFFIX, write_whole
from hemodist.storage.retries import with_retries

_MARK = 0xA5
"""Byte that stands at the end of a buffer before it is filled; neither text nor padding ends so.

However little an object store sends, pyarrow 26 gives the length that was asked for, by each of its ways to read.
"""

T = TypeVar("T")


class StoreError(UserError):
    """A name cannot be read or written; the text says which, why, and what helps."""

    transient = True


class Entry(NamedTuple):
    """A file of a listing.

    Attributes:
        name: below the root.
        size: in bytes.
        changed: time of the last change in ns since 1970; 0 where the store does not say.
    """

    name: str
    size: int
    changed: int


@dataclass(frozen=True)
class Store:
    """Files below one root.

    Attributes:
        uri: the root as the user wrote it (made absolute when it is a local path).
        root: the root's path inside `filesystem`, without a trailing slash.
        filesystem: pyarrow's file system.
    """

    uri: str
    root: str
    filesystem: pafs.FileSystem

    @classmethod
    def open(cls, uri: str | os.PathLike[str]) -> Store:
        """Open a root; nothing is created and, for local paths, nothing is touched.

        Args:
            uri: a local path, or a URI of a scheme that pyarrow knows (`s3://bucket/prefix`, `gs://...`, `file:///...`).

        Raises:
            StoreError: the scheme is unknown or the file system cannot be set up.
        """
        text = os.fspath(uri)
        if "://" not in text:
            path = str(Path(text).expanduser().resolve())
            return cls(path, path, pafs.LocalFileSystem())
        user, at, _ = text.partition("://")[2].partition("/")[0].rpartition("@")
        if at and user != "anonymous":  # it would be shown and kept in many places
            raise StoreError(
                "the URI carries credentials before '@'; take them out, and give them by AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or in the client's own file"
            )
        if "?" in text:  # names are joined to the end of a URI
            raise StoreError(
                f"{text} carries options after '?'; give endpoint and region by AWS_ENDPOINT_URL and AWS_REGION instead"
            )
        # One PUT for what is small, instead of the three requests of an upload in parts.
        asked = f"{text}?allow_delayed_open=true" if text.startswith("s3://") else text
        try:
            filesystem, root = pafs.FileSystem.from_uri(asked)
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot open {text}: {error}; use a local path, s3://, gs:// or file://") from error
        return cls(text.rstrip("/"), root.rstrip("/"), filesystem)

    @property
    def is_local(self) -> bool:
        """True where names are files of this machine (NFS included) and can be memory-mapped."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, name: str = "") -> str:
        """The path of `name` inside the file system.

        Raises:
            StoreError: it would lie outside the root.
        """
        if name.startswith("/") or ".." in name.split("/"):
            raise StoreError(f"the name {name!r} leads out of {self.uri}; use names without '..' and leading '/'")
        return f"{self.root}/{name}" if name else self.root

    def local(self, name: str = "") -> Path:
        """The local path of `name`.

        Raises:
            StoreError: the store is not local.
        """
        if not self.is_local:
            raise StoreError(f"{self.uri} is not a local folder")
        return Path(self.path(name))

    def contains(self, other: Store) -> bool:
        """Whether the other root is this one, or lies below it."""
        same = type(self.filesystem) is type(other.filesystem)
        return same and f"{other.root}/".startswith(f"{self.root}/")

    def size(self, name: str) -> int | None:
        """Size of the file `name` in bytes, or None where there is no such file.

        Raises:
            StoreError: the store cannot be asked.
        """
        info = self._explained("look at", name, lambda: self.filesystem.get_file_info(self.path(name)))
        return int(info.size) if info.type == pafs.FileType.File else None

    def read(self, name: str) -> bytes:
        """The whole content of the file `name`.

        Raises:
            StoreError: there is no such file, or it cannot be read.
        """
        return self._explained("read", name, lambda: self._read(self.path(name)))

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write the file `name` so that it is visible only when whole.

        Local: written aside, fsync, rename, fsync of the folder. Object store: one upload (a PUT, or parts that become
        visible together), and then a look at what is there; what has another size is deleted.

        Raises:
            StoreError: it could not be written; the earlier content of `name`, if any, is still there, but for an
                object store that took less than it was given, where there is nothing then.
        """
        if self.is_local:
            self._explained("write", name, lambda: write_whole(Path(self.path(name)), content))
        else:
            self._explained("write", name, lambda: self._upload(self.path(name), content))

    def delete(self, name: str) -> None:
        """Delete the file `name`; a missing one is fine.

        Raises:
            StoreError: it is there and cannot be deleted.
        """
        if self.size(name) is not None:
            self._explained("delete", name, lambda: self._delete(self.path(name)))

    def delete_partial(self, prefix: str) -> None:
        """Delete the unfinished local files that killed processes left in the folder `prefix`.

        Nobody else may be writing there, since their unfinished files would go too.

        Raises:
            StoreError: they cannot be deleted.
        """
        if self.is_local:
            for left in self.local(prefix).glob(f"*{PARTIAL_SUFFIX}"):
                self._explained("delete", f"{prefix}/{left.name}", partial(left.unlink, missing_ok=True))

    def list(self, prefix: str = "", *, recursive: bool = True) -> list[tuple[str, int]]:
        """Names (relative to the root) and sizes in bytes of the files below the folder `prefix`, sorted by name.

        Unfinished files are left out. A missing folder is an empty one.

        Raises:
            StoreError: the folder cannot be listed.
        """
        found = self.list_all(prefix, recursive=recursive)
        return [(entry.name, entry.size) for entry in found if not entry.name.endswith(PARTIAL_SUFFIX)]

    def list_all(self, prefix: str = "", *, recursive: bool = True) -> Sequence[Entry]:
        """As `list`, with the names of unfinished files among them: in a source they may be anything.

        Raises:
            StoreError: the folder cannot be listed.
        """
        selector = pafs.FileSelector(self.path(prefix), allow_not_found=True, recursive=recursive)
        found = self._explained("list", prefix, lambda: self.filesystem.get_file_info(selector))
        skip = len(self.root) + 1
        files = (info for info in found if info.type == pafs.FileType.File)
        return sorted(Entry(info.path[skip:], int(info.size), int(info.mtime_ns or 0)) for info in files)

    def check_writable(self) -> None:
        """Write and delete a small file, so that a run finds out early.

        Raises:
            StoreError: the root cannot be written.
        """
        probe = f".probe-{uuid.uuid4().hex}"
        self.write(probe, b"hemodist")
        self.delete(probe)

    def _explained(self, verb: str, name: str, action: Callable[[], T]) -> T:
        """Call `action`, again where its error may pass, and turn an error that stays into a `StoreError`."""
        try:
            return with_retries(action)
        except (OSError, UnicodeError) as error:  # pyarrow knows no name that is not UTF-8
            where = shown(f"{self.uri}/{name}" if name else self.uri)
            remedy = "check the path, the rights and the free space"
            raise StoreError(f"cannot {verb} {where}: {shown(str(error))}; {remedy}") from error

    def _read(self, path: str) -> bytes:
        if self.is_local:
            with io.FileIO(path) as file:  # one call for the whole, into its place
                return file.read()
        # As a file, not as a stream: one request for the whole instead of one for every 256 KiB.
        with self.filesystem.open_input_file(path) as file:
            content = bytearray(file.size())
            # A byte that was really written cannot equal both of two marks that were left in its place.
            for mark in (_MARK, _MARK ^ 0xFF):
                content[-1:] = bytes([mark]) * bool(content)
                if file.tell():  # Google's client asks anew for any seek, even one to where it is
                    file.seek(0)
                given = file.readinto(content)
                if given == len(content) and (not content or content[-1] != mark):
                    return bytes(content)
        raise OSError(errno.EIO, f"the store gave less than the {len(content)} bytes that it announced")

    def _upload(self, path: str, content: bytes | memoryview) -> None:
        failed: list[BaseException] = []

        def send() -> None:
            try:
                stream = self.filesystem.open_output_stream(path)
                stream.write(content)
                stream.close()  # completes the upload, and raises where a part has failed
            except BaseException as error:  # raised below, in the caller's thread
                failed.append(error)

        # An upload that is left half-way would be completed as it is when the stream goes. Signals raise in the main
        # thread only, so Ctrl-C cannot come between opening and writing here.
        thread = threading.Thread(target=send, name="upload")
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        info = self.filesystem.get_file_info(path)
        if info.type != pafs.FileType.File or info.size != len(content):
            if info.type == pafs.FileType.File:
                self._delete(path)
            raise OSError(errno.EIO, f"the store holds {info.size or 0} bytes of {len(content)}")

    def _delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # an earlier try may have done it
            self.filesystem.delete_file(path)


def join(uri: str | os.PathLike[str], *names: str) -> str:
    """Join a path or URI with names below it.

    >>> join("s3://bucket/runs/", "a", "b")
    's3://bucket/runs/a/b'
    """
    return "/".join([os.fspath(uri).rstrip("/"), *names])


def shown(name: str) -> str:
    r"""A file's name as text that can be printed and stored: bytes that are not UTF-8 become `\xNN`.

    >>> shown("M\udcfcller.dcm")
    'M\\xfcller.dcm'
    """
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
