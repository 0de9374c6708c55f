"""The files of a node's cache: one for each cached shard, shared by all processes of the node, with a limit on bytes.

The processes never speak to each other. They use the kernel's file locks (flock), which the kernel frees when the
process that holds one ends, however it ends:

- a process that reads a cached shard holds a shared lock on its file, so a file that can be locked exclusively is one
  that nobody reads;
- a process that fetches a shard holds the shard's `.lock` file, so each shard is fetched once a node, and the others
  wait;
- a process that frees bytes holds the folder's `room.lock`, so the limit holds for all processes together.

Only files that this module made are ever deleted: their names end in `.copy`, those of a data set's shards in `.tar`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hemodist.errors import UserError
from hemodist.storage.local_files import PARTIAL_SUFFIX

FREE_SHARE = 0.9
"""Share of the disk's free bytes, those of the cache files included, that the cache may take where no limit is set."""

WAIT_FOR_FREE_BYTES = 60.0
"""Seconds to wait until other processes close cached shards that are then deleted; a run's ranks do in a few steps."""

ROOT = "copies"
"""Folder of all cache files below the cache folder; it holds one folder for each data set."""

_SUFFIX = ".copy"
_FREEING = "room.lock"
"""File in `ROOT` that a process locks while it frees bytes."""

_POLL = 0.05
"""Seconds between two looks for free bytes."""


class CacheError(UserError):
    """A shard cannot be had on this node."""

    transient = True


class _NoFreeBytesError(CacheError):
    """All that could be deleted is being read; in a moment it may not be."""


@dataclass(frozen=True)
class CacheFile:
    """The file of one cached shard.

    Attributes:
        path: where it is.
        size: in bytes.
        written: when, in seconds since 1970.
    """

    path: Path
    size: int
    written: float


EvictionPriority = Callable[[CacheFile], tuple[float, float] | None]
"""Eviction priority of a cached shard: highest is deleted first; None means never."""


class CacheFiles:
    """The cached shards of one data set, in a folder that may hold those of other data sets too."""

    def __init__(self, folder: str, name: str, limit: int | None) -> None:
        """Set up; nothing is touched yet.

        Args:
            folder: the cache folder.
            name: of the data set, unique for its content.
            limit: bytes that all files in the cache folder may take together; None for `FREE_SHARE` of the disk's free
                bytes.
        """
        self.root = Path(folder).expanduser() / ROOT
        self._folder = self.root / name
        self._limit = limit

    def path(self, shard: int) -> Path:
        """The file of a shard, whether it is cached or not."""
        return self._folder / f"{shard:06d}{_SUFFIX}"

    def shard_of(self, file: CacheFile) -> int | None:
        """The shard that a file holds; None where it is of another data set."""
        return int(file.path.stem) if file.path.parent == self._folder else None

    def has(self, shard: int) -> bool:
        """Whether a shard is cached."""
        with self._explained():
            return self.path(shard).exists()

    def open_locked(self, shard: int, size: int) -> BinaryIO | None:
        """Open a cached shard for reading, with a lock so that nobody deletes it before it is closed.

        Args:
            shard: its number.
            size: that it must have in bytes; a file of another size, as a power cut may leave it, is deleted.

        Returns:
            The open file; None where the shard is not cached.

        Raises:
            CacheError: the folder cannot be read.
        """
        path = self.path(shard)
        with self._explained():
            while True:
                try:
                    file = path.open("rb")
                except (FileNotFoundError, NotADirectoryError):  # `add` explains the second
                    return None
                fcntl.flock(file, fcntl.LOCK_SH)
                status = os.fstat(file.fileno())
                if status.st_nlink and status.st_size == size:
                    return file
                file.close()
                if status.st_nlink:
                    path.unlink(missing_ok=True)

    def add(self, shard: int, size: int, read: Callable[[], bytes], priority: EvictionPriority, *, wait: bool) -> bool:
        """Cache a shard unless it is cached already; its file is visible only when whole.

        Args:
            shard: its number.
            size: in bytes.
            read: gives the content, checked.
            priority: which other cached shards are deleted for it.
            wait: for another process that is fetching the shard, and for free bytes; otherwise give up at once.

        Returns:
            Whether this call has cached it.

        Raises:
            CacheError: there are not enough free bytes, or the folder cannot be written.
        """
        target = self.path(shard)
        with self._explained(), _locked(target.with_suffix(".lock"), wait=wait) as mine:
            if not mine or target.exists():
                return False
            partial, file = self._free_bytes(target, size, priority, wait=wait)
            try:
                with file:
                    file.write(read())
                    file.flush()
                    os.fsync(file.fileno())
                    with _locked(self.root / _FREEING, wait=True):  # nobody counts files while one is renamed
                        partial.rename(target)
            finally:
                partial.unlink(missing_ok=True)
        return True

    def capacity(self) -> int:
        """Bytes that all files in the cache folder may take together.

        Raises:
            CacheError: the folder cannot be read.
        """
        if self._limit is not None:
            return self._limit
        with self._explained():
            existing = next(path for path in (self.root, *self.root.parents) if path.exists())
            return int(FREE_SHARE * (shutil.disk_usage(existing).free + sum(file.size for file in self._all_files())))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CacheError(
                f"cannot keep copies of shards in {self.root}: {error}; set data.cache to another folder"
            ) from error

    def _all_files(self) -> list[CacheFile]:
        """The cached shards of every data set, unfinished ones too."""
        found = []
        for path in self.root.glob(f"*/*{_SUFFIX}*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append(CacheFile(path, status.st_size, status.st_mtime))
        return found

    def _free_bytes(self, target: Path, size: int, priority: EvictionPriority, *, wait: bool) -> tuple[Path, BinaryIO]:
        """As `_reserve`, again and again while others read what could be deleted, if that is to be waited for."""
        deadline = time.monotonic() + WAIT_FOR_FREE_BYTES
        while True:
            try:
                with _locked(self.root / _FREEING, wait=True):
                    return self._reserve(target, size, priority)
            except _NoFreeBytesError:
                if not wait or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL)

    def _reserve(self, target: Path, size: int, priority: EvictionPriority) -> tuple[Path, BinaryIO]:
        """An empty, locked file of the wanted size beside `target`; cached shards are deleted for it where needed."""
        for path in self.root.glob(f"*/*{_SUFFIX}{PARTIAL_SUFFIX}"):
            _delete(path)  # what killed processes have left
        files, capacity = self._all_files(), self.capacity()
        taken = sum(file.size for file in files)
        whole = [file for file in files if file.path.suffix == _SUFFIX]
        ordered = [(value, file.path, file) for file in whole if (value := priority(file)) is not None]
        deletable = [file for _, _, file in sorted(ordered, key=lambda entry: entry[:2])]  # first to be deleted last
        partial = target.with_name(target.name + PARTIAL_SUFFIX)
        while True:
            while taken + size > capacity:
                deleted = next((file.size for file in _popped(deletable) if _delete(file.path)), None)
                if deleted is None:
                    raise self._no_free_bytes(size, taken, capacity, bool(files))
                taken -= deleted
            reserved = partial.open("xb")
            try:
                fcntl.flock(reserved, fcntl.LOCK_EX)
                os.posix_fallocate(reserved.fileno(), 0, max(size, 1))  # a full disk shows here
                return partial, reserved
            except OSError as error:
                reserved.close()
                partial.unlink()
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                capacity = min(capacity, taken + size - 1)  # one more must go

    def _no_free_bytes(self, size: int, taken: int, capacity: int, others: bool) -> CacheError:
        kind = _NoFreeBytesError if others else CacheError  # an empty cache gives nobody anything to wait for
        return kind(
            f"no room for a shard of {size} bytes in {self.root}: {taken} bytes of copies are in use or needed sooner, "
            f"{max(capacity, 0)} may be taken, the disk has {shutil.disk_usage(self.root).free} free; set "
            "data.cache_gb higher, point data.cache to a larger disk, use a smaller batch.block_shards, or end other "
            "runs that use the same folder"
        )


def _popped(files: list[CacheFile]) -> Iterator[CacheFile]:
    while files:
        yield files.pop()


def _delete(path: Path) -> bool:
    """Delete a file unless another process holds a lock on it; whether it is gone."""
    try:
        with _open_to_lock(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def _open_to_lock(path: Path) -> BinaryIO:
    """Open a file for writing where that is allowed, since NFS gives an exclusive lock on no other (flock(2))."""
    try:
        return path.open("r+b")
    except PermissionError:
        return path.open("rb")


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a file; yields False where another process holds it and `wait` is false."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
