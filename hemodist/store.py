"""One file-system layer for local folders, NFS, S3 and GCS (pyarrow's), with whole-or-nothing writes.

A `Store` is a root, given as a path or a URI, below which names are relative and use `/`. Reading and writing go
through `pyarrow.fs`, so `s3://` honours `AWS_ENDPOINT_URL` (MinIO and the like) and the usual credential chain.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs

from hemodist.errors import UserError

PARTIAL_SUFFIX = ".partial"
"""Ends the name of a file that is being written; readers and listings ignore such files."""


class StoreError(UserError):
    """A name cannot be read or written; the text says which, why, and what helps."""


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
        try:
            filesystem, root = pafs.FileSystem.from_uri(text)
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot open {text}: {error}; use a local path, s3://, gs:// or file://") from error
        return cls(text.rstrip("/"), root.rstrip("/"), filesystem)

    @property
    def is_local(self) -> bool:
        """True where names are files of this machine (NFS included) and can be memory-mapped."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, name: str = "") -> str:
        """The path of `name` inside the file system."""
        return f"{self.root}/{name}" if name else self.root

    def local(self, name: str = "") -> Path:
        """The local path of `name`.

        Raises:
            StoreError: the store is not local.
        """
        if not self.is_local:
            raise StoreError(f"{self.uri} is not a local folder")
        return Path(self.path(name))

    def sub(self, name: str) -> Store:
        """The store rooted at the folder `name`."""
        return Store(f"{self.uri}/{name}", self.path(name), self.filesystem)

    def size(self, name: str) -> int | None:
        """Size of the file `name` in bytes, or None where there is no such file.

        Raises:
            StoreError: the store cannot be asked.
        """
        with _explained("look at", self.uri, name):
            info = self.filesystem.get_file_info(self.path(name))
        return int(info.size) if info.type == pafs.FileType.File else None

    def read(self, name: str) -> bytes:
        """The whole content of the file `name`.

        Raises:
            StoreError: there is no such file, or it cannot be read.
        """
        with _explained("read", self.uri, name), self.filesystem.open_input_stream(self.path(name)) as stream:
            return bytes(stream.read())

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write the file `name` so that it is visible only when whole.

        Local: written aside, fsync, rename, fsync of the folder. Object store: one upload, checked for its size.

        Raises:
            StoreError: it could not be written; the earlier content of `name`, if any, is still there.
        """
        with _explained("write", self.uri, name):
            if self.is_local:
                _write_local(Path(self.path(name)), content)
                return
            with self.filesystem.open_output_stream(self.path(name)) as stream:
                stream.write(content)
            written = self.filesystem.get_file_info(self.path(name)).size
            if written != len(content):
                raise OSError(f"the store holds {written} bytes of {len(content)}")

    def delete(self, name: str) -> None:
        """Delete the file `name`; a missing one is fine.

        Raises:
            StoreError: it is there and cannot be deleted.
        """
        if self.size(name) is not None:
            with _explained("delete", self.uri, name):
                self.filesystem.delete_file(self.path(name))

    def list(self, prefix: str = "", *, recursive: bool = True) -> list[tuple[str, int]]:
        """Names (relative to the root) and sizes in bytes of the files below the folder `prefix`, sorted by name.

        Unfinished files are left out. A missing folder is an empty one.

        Raises:
            StoreError: the folder cannot be listed.
        """
        selector = pafs.FileSelector(self.path(prefix), allow_not_found=True, recursive=recursive)
        with _explained("list", self.uri, prefix):
            found = self.filesystem.get_file_info(selector)
        skip = len(self.root) + 1
        files = ((info.path[skip:], int(info.size)) for info in found if info.type == pafs.FileType.File)
        return sorted((name, size) for name, size in files if not name.endswith(PARTIAL_SUFFIX))

    def check_writable(self) -> None:
        """Write and delete a small file, so that a run finds out early.

        Raises:
            StoreError: the root cannot be written.
        """
        probe = f".probe-{uuid.uuid4().hex}"
        self.write(probe, b"hemodist")
        self.delete(probe)


def join(uri: str | os.PathLike[str], *names: str) -> str:
    """Join a path or URI with names below it.

    >>> join("s3://bucket/runs/", "a", "b")
    's3://bucket/runs/a/b'
    """
    return "/".join([os.fspath(uri).rstrip("/"), *names])


def _write_local(path: Path, content: bytes | memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _explained(verb: str, uri: str, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f"{uri}/{name}" if name else uri
        raise StoreError(f"cannot {verb} {where}: {error}; check the path, the rights and the free space") from error
