"""A folder of verified copies of shards that all processes of a node share, with a bound on its bytes.

The processes never speak to each other; the kernel's file locks (flock) do it, and it frees them when their holder
dies, however it dies:

- who reads a copy holds a shared lock on it, so a copy that can be locked exclusively is in nobody's use;
- who fetches a shard holds the shard's `.lock` file, so each is fetched once a node and the others wait;
- who makes room holds the folder's `room.lock`, so the bound holds for all processes together.

Only names that this module gives are ever deleted: copies end in `.copy`, the shards of data sets in `.tar`.
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
"""Of the disk's free bytes (and the copies' own), what the copies may take where no bound is set."""

WAIT_FOR_ROOM = 60.0
"""Seconds that a shard waits for others to let go of theirs. The ranks of a run do so within a few steps."""

ROOT = "copies"
"""Folder of all copies below the cache folder; holds one folder a data set."""

_SUFFIX = ".copy"
_POLL = 0.05
"""Seconds between two looks for room."""


class CacheError(UserError):
    """A shard cannot be had on this node."""

    transient = True


class _NoRoomError(CacheError):
    """All that could be deleted is in use; another moment may be better."""


@dataclass(frozen=True)
class Copy:
    """One copy: its file, size in bytes, and when it was written (seconds)."""

    path: Path
    size: int
    written: float


Rank = Callable[[Copy], tuple[float, float] | None]
"""Of a copy, in which order it is deleted when room is needed: the largest first; None for one that must stay."""


class Copies:
    """The copies of one data set, in a folder that may hold others' too."""

    def __init__(self, folder: str, name: str, limit: int | None) -> None:
        """Set up; nothing is touched yet.

        Args:
            folder: the cache folder.
            name: of the data set, unique for its content.
            limit: bytes that all copies in the folder may take together; None for `FREE_SHARE` of what the disk has.
        """
        self.root = Path(folder).expanduser() / ROOT
        self._folder = self.root / name
        self._limit = limit

    def path(self, shard: int) -> Path:
        """Where the copy of a shard is, or would be."""
        return self._folder / f"{shard:06d}{_SUFFIX}"

    def number(self, copy: Copy) -> int | None:
        """The shard that a copy is of; None where it is of another data set."""
        return int(copy.path.stem) if copy.path.parent == self._folder else None

    def has(self, shard: int) -> bool:
        """Whether there is a copy of a shard."""
        with self._explained():
            return self.path(shard).exists()

    def lease(self, shard: int, size: int) -> BinaryIO | None:
        """A copy, open for reading and kept from deletion until it is closed; None where there is none.

        Args:
            shard: its number.
            size: that it must have in bytes; one of another size, as a power cut may leave it, is deleted.

        Raises:
            CacheError: the folder cannot be read.
        """
        path = self.path(shard)
        with self._explained():
            while True:
                try:
                    file = path.open("rb")
                except (FileNotFoundError, NotADirectoryError):  # `place` explains the second
                    return None
                fcntl.flock(file, fcntl.LOCK_SH)
                status = os.fstat(file.fileno())
                if status.st_nlink and status.st_size == size:
                    return file
                file.close()
                if status.st_nlink:
                    path.unlink(missing_ok=True)

    def place(self, shard: int, size: int, read: Callable[[], bytes], rank: Rank, *, patient: bool) -> bool:
        """Make a copy, visible only when whole, unless there is one.

        Args:
            shard: its number.
            size: in bytes.
            read: gives the content, checked.
            rank: which other copies are deleted for it.
            patient: wait for another process that is fetching the shard, and for room; otherwise leave it at that.

        Returns:
            Whether this call has made it.

        Raises:
            CacheError: there is no room, or the folder cannot be written.
        """
        target = self.path(shard)
        with self._explained(), _locked(target.with_suffix(".lock"), wait=patient) as mine:
            if not mine or target.exists():
                return False
            aside, file = self._make_room(target, size, rank, patient=patient)
            try:
                with file:
                    file.write(read())
                    file.flush()
                    os.fsync(file.fileno())
                    with _locked(self.root / "room.lock", wait=True):  # nobody counts a copy without its name
                        aside.rename(target)
            finally:
                aside.unlink(missing_ok=True)
        return True

    def bound(self) -> int:
        """Bytes that all copies may take.

        Raises:
            CacheError: the folder cannot be read.
        """
        if self._limit is not None:
            return self._limit
        with self._explained():
            existing = next(path for path in (self.root, *self.root.parents) if path.exists())
            return int(FREE_SHARE * (shutil.disk_usage(existing).free + sum(copy.size for copy in self._all())))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CacheError(
                f"cannot keep copies of shards in {self.root}: {error}; set data.cache to another folder"
            ) from error

    def _all(self) -> list[Copy]:
        """Every copy of every data set, unfinished ones too."""
        found = []
        for path in self.root.glob(f"*/*{_SUFFIX}*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append(Copy(path, status.st_size, status.st_mtime))
        return found

    def _make_room(self, target: Path, size: int, rank: Rank, *, patient: bool) -> tuple[Path, BinaryIO]:
        deadline = time.monotonic() + WAIT_FOR_ROOM
        while True:
            try:
                with _locked(self.root / "room.lock", wait=True):
                    return self._reserve(target, size, rank)
            except _NoRoomError:
                if not patient or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL)

    def _reserve(self, target: Path, size: int, rank: Rank) -> tuple[Path, BinaryIO]:
        """An empty file of the wanted size beside its place, locked; others are deleted for it, the best first."""
        for path in self.root.glob(f"*/*{_SUFFIX}{PARTIAL_SUFFIX}"):
            _delete(path)  # what processes that are gone have left
        copies, bound = self._all(), self.bound()
        taken = sum(copy.size for copy in copies)
        whole = [copy for copy in copies if copy.path.suffix == _SUFFIX]
        ranked = [(value, copy.path, copy) for copy in whole if (value := rank(copy)) is not None]
        victims = [copy for _, _, copy in sorted(ranked, key=lambda entry: entry[:2])]
        aside = target.with_name(target.name + PARTIAL_SUFFIX)
        while True:
            while taken + size > bound:
                deleted = next((copy.size for copy in _popped(victims) if _delete(copy.path)), None)
                if deleted is None:
                    raise self._no_room(size, taken, bound, bool(copies))
                taken -= deleted
            file = aside.open("xb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                os.posix_fallocate(file.fileno(), 0, max(size, 1))  # a full disk shows here
                return aside, file
            except OSError as error:
                file.close()
                aside.unlink()
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                bound = min(bound, taken + size - 1)  # one more must go

    def _no_room(self, size: int, taken: int, bound: int, others: bool) -> CacheError:
        kind = _NoRoomError if others else CacheError  # there is nothing to wait for where there is no copy
        return kind(
            f"no room for a shard of {size} bytes in {self.root}: {taken} bytes of copies are in use or needed sooner, "
            f"{max(bound, 0)} may be taken, the disk has {shutil.disk_usage(self.root).free} free; set data.cache_gb "
            "higher, point data.cache to a larger disk, use a smaller batch.block_shards, or end other runs that use "
            "the same folder"
        )


def _popped(victims: list[Copy]) -> Iterator[Copy]:
    while victims:
        yield victims.pop()


def _delete(path: Path) -> bool:
    """Delete a file unless somebody holds it."""
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
    """For writing where that is allowed: NFS gives an exclusive lock on nothing else (flock(2))."""
    try:
        return path.open("r+b")
    except PermissionError:
        return path.open("rb")


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock of the node; gives False where it is taken and not to be waited for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
