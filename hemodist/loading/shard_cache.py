"""The shards of a data set as files of this node: a local data set's own, or cached shards of an object store.

A cached shard gets its name after its SHA-256 matched the manifest, so a file that exists is whole and right. Shards
are fetched before the plan needs them, and the one that the plan needs last is deleted first. `cache_files` holds the
files, and keeps the processes of a node from deleting what another one reads. A shard of a local data set is read where
it is, and never changed.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.digest import sha256
from hemodist.dataset.manifest import ShardInfo
from hemodist.loading.cache_files import CacheError, CacheFile, CacheFiles
from hemodist.plan.cache_need import check_cache_holds
from hemodist.storage.store import StoreError

FETCHERS = 4
"""Shards that a process fetches at the same time."""

FETCH_AHEAD = 32
"""Shards beyond the blocks in use that are fetched before they are needed."""


class ShardCache:
    """The shards of one data set, as open files."""

    def __init__(self, dataset: DataSet, folder: str, *, limit: int | None = None, attempts: int = 3) -> None:
        """Set up; nothing is fetched yet.

        Args:
            dataset: the data set.
            folder: node-local folder for cached shards; made when the first shard is fetched.
            limit: bytes that all cached shards in `folder` may take together, those of other data sets too; None for
                nine tenths of the disk's free bytes.
            attempts: how often a shard is fetched whose SHA-256 is wrong each time.
        """
        self._store = dataset.store
        self._shards = dataset.manifest.shards
        self._attempts = attempts
        # Named by the digest: cached shards of another version of the data set are never taken for this one's.
        self._files = CacheFiles(folder, dataset.manifest.digest[:32], limit)
        self._lock = threading.Lock()  # of the three below
        self._needed_before: dict[int, int] = {}  # shards needed no later than this one; 0 for one in use
        self._to_fetch: list[int] = []  # in the order of need, what is cached already too
        self._fetching: set[int] = set()
        self._pool = None if self._store.is_local else ThreadPoolExecutor(FETCHERS, "shard-fetch")

    def open(self, shard: int) -> BinaryIO:
        """A shard, fetched first where that is needed. It is not deleted as long as the file is open.

        Args:
            shard: position in the manifest's list.

        Raises:
            CacheError: it is missing, of the wrong size, its SHA-256 is wrong again and again, or the cache
                has not enough free bytes for it.
            StoreError: the store cannot be read.
        """
        info = self._shards[shard]
        if self._store.is_local:
            _check_size(info, self._store.size(info.name), self._store.uri)
            return self._store.local(info.name).open("rb")
        while (file := self._files.open_locked(shard, info.bytes)) is None:
            self._fetch(shard, wait=True)
        return file

    def follow(self, now: Sequence[int], later: Sequence[int]) -> None:
        """Say what a batch and those after it need, so that it is fetched in time and kept; called at each batch.

        Fetching runs in the background; its errors show when the shard is opened.

        Args:
            now: shards in use.
            later: those needed after them, the soonest first.
        """
        if self._pool is None:
            return
        with self._lock:
            self._needed_before = {shard: n for n, shard in enumerate(later, 1)} | dict.fromkeys(now, 0)
            self._to_fetch = [*now, *later[:FETCH_AHEAD]]
        self._fetch_ahead()

    def check_holds(self, at_once: Iterable[Sequence[int]]) -> None:
        """Check that the cache can hold each of some sets of shards that are read at the same time.

        Raises:
            ConfigError: a set does not fit; with the numbers and the remedy.
        """
        if not self._store.is_local:
            check_cache_holds(self._shards, at_once, self._files.capacity(), str(self._files.root))

    def renew(self, shard: int) -> bool:
        """Check a cached shard of which a sample was wrong, and delete its file where it has changed on the disk.

        Returns:
            Whether it is worth reading again; False for a shard of a local data set.
        """
        if self._store.is_local:
            return False
        info = self._shards[shard]
        if (file := self._files.open_locked(shard, info.bytes)) is not None:
            with file:
                if sha256(file.read()) != info.sha256:
                    self._files.path(shard).unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Stop fetching."""
        if self._pool is not None:
            with self._lock:
                self._to_fetch = []
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetch_ahead(self) -> None:
        """Begin as many background fetches as may run, in the order of need."""
        with self._lock:
            missing = {shard for shard in self._to_fetch if not self._files.has(shard)} - self._fetching
            if not missing or self._pool is None:
                return
            capacity, taken = self._files.capacity(), 0
            for shard in self._to_fetch:
                taken += self._shards[shard].bytes
                # A shard that does not fit beside all that is needed sooner would push some of that out.
                if taken > capacity or len(self._fetching) >= FETCHERS:
                    return
                if shard in missing:
                    with contextlib.suppress(RuntimeError):  # closed meanwhile
                        self._pool.submit(self._fetch_one_ahead, shard)
                        self._fetching.add(shard)

    def _fetch_one_ahead(self, shard: int) -> None:
        done = False
        # Where it cannot be had now, it is tried again at the next batch, or the reader is told when it asks for it.
        with contextlib.suppress(CacheError, StoreError):
            done = self._fetch(shard, wait=False)
        with self._lock:
            self._fetching.discard(shard)
        if done:
            self._fetch_ahead()

    def _fetch(self, shard: int, *, wait: bool) -> bool:
        """Cache a shard, and return whether this call has fetched it.

        With `wait` it waits for another process that fetches it and for free bytes, and may delete whatever is not in
        use. Without, as for a shard that is fetched early, it may delete only what is needed later than this shard.
        """
        with self._lock:
            needed_before = self._needed_before
        least = 0 if wait else needed_before.get(shard, 0)

        def priority(file: CacheFile) -> tuple[float, float] | None:
            """Deleted first is what the plan does not need, the oldest of it first; then what it needs last."""
            cached = self._files.shard_of(file)
            before = math.inf if cached is None else needed_before.get(cached, math.inf)
            return (before, -file.written) if before > least else None

        info = self._shards[shard]
        return self._files.add(shard, info.bytes, lambda: self._verified(info), priority, wait=wait)

    def _verified(self, info: ShardInfo) -> bytes:
        digests = set()
        for _ in range(self._attempts):
            content = self._store.read(info.name)
            digest = sha256(content)
            if digest == info.sha256 and len(content) == info.bytes:
                return content
            digests.add(f"{digest}, {len(content)} bytes")
        raise CacheError(
            f"{self._store.uri}/{info.name} was fetched {self._attempts} times and never matched its SHA-256 "
            f"{info.sha256}, {info.bytes} bytes (got {'; '.join(sorted(digests))}); "
            f"run `python -m shards verify {self._store.uri}`"
        )


def _check_size(info: ShardInfo, size: int | None, uri: str) -> None:
    if size != info.bytes:
        found = "is missing" if size is None else f"holds {size} bytes"
        raise CacheError(
            f"{uri}/{info.name} {found}, the manifest says {info.bytes}; run `python -m shards verify {uri}`"
        )
