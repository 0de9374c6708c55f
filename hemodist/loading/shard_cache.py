"""Where a shard can be read from on this node: in place, or a verified copy fetched from the object store.

A copy is placed by a rename after its SHA-256 matched the manifest, so a name that exists is whole and right. Shards
are fetched ahead of the plan and deleted in its order, the one that is needed last first; `node_copies` beside this
module keeps the processes of a node out of each other's way. A shard of a local data set is read in place and never
touched.
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
from hemodist.loading.node_copies import CacheError, Copies, Copy
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
            folder: node-local folder for copies; made when the first shard is fetched.
            limit: bytes that all copies in `folder` may take together, those of other data sets too; None for
                nine tenths of what the disk has.
            attempts: fetches of a shard that fails its digest before giving up.
        """
        self._store = dataset.store
        self._shards = dataset.manifest.shards
        self._attempts = attempts
        # Named by the digest: copies of another version of the data set are never taken for this one's.
        self._copies = Copies(folder, dataset.manifest.digest[:32], limit)
        self._guard = threading.Lock()  # of the three below
        self._turns: dict[int, int] = {}  # 0 for a shard in use, then how many are needed before it
        self._ahead: list[int] = []
        self._fetching: set[int] = set()
        self._pool = None if self._store.is_local else ThreadPoolExecutor(FETCHERS, "shard-fetch")

    def open(self, shard: int) -> BinaryIO:
        """A shard, fetched first where that is needed. As long as the file is open, its copy is not deleted.

        Args:
            shard: position in the manifest's list.

        Raises:
            CacheError: it is missing, of the wrong size, fails its digest again and again, or there is no room for it.
            StoreError: the store cannot be read.
        """
        info = self._shards[shard]
        if self._store.is_local:
            _check_size(info, self._store.size(info.name), self._store.uri)
            return self._store.local(info.name).open("rb")
        while (file := self._copies.lease(shard, info.bytes)) is None:
            self._fetch(shard, patient=True)
        return file

    def follow(self, now: Sequence[int], later: Sequence[int]) -> None:
        """Fetch ahead in the background, and delete what is needed last first; to be called at each batch.

        Errors show when the shard is opened.

        Args:
            now: shards in use.
            later: those needed after them, the soonest first.
        """
        if self._pool is None:
            return
        with self._guard:
            self._turns = {shard: turn for turn, shard in enumerate(later, 1)} | dict.fromkeys(now, 0)
            self._ahead = [*now, *later[:FETCH_AHEAD]]
        self._fetch_ahead()

    def check_holds(self, windows: Iterable[Sequence[int]]) -> None:
        """Check that there is room for each of some sets of shards that are needed at the same time.

        Raises:
            ConfigError: one does not fit; with the numbers and the remedy.
        """
        if not self._store.is_local:
            check_cache_holds(self._shards, windows, self._copies.bound(), str(self._copies.root))

    def renew(self, shard: int) -> bool:
        """A sample of a shard was wrong: check its copy, and delete it where it has changed on the disk.

        Returns:
            Whether it is worth reading again; False for a shard that is read in place.
        """
        if self._store.is_local:
            return False
        info = self._shards[shard]
        if (file := self._copies.lease(shard, info.bytes)) is not None:
            with file:
                if sha256(file.read()) != info.sha256:
                    self._copies.path(shard).unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Stop fetching."""
        if self._pool is not None:
            with self._guard:
                self._ahead = []
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetch_ahead(self) -> None:
        """Begin as many background fetches as may run, in the order of need."""
        with self._guard:
            missing = {shard for shard in self._ahead if not self._copies.has(shard)} - self._fetching
            if not missing or self._pool is None:
                return
            bound, taken = self._copies.bound(), 0
            for shard in self._ahead:
                taken += self._shards[shard].bytes
                # What does not fit beside all that is needed sooner would push that out.
                if taken > bound or len(self._fetching) >= FETCHERS:
                    return
                if shard in missing:
                    with contextlib.suppress(RuntimeError):  # closed meanwhile
                        self._pool.submit(self._fetch_one_ahead, shard)
                        self._fetching.add(shard)

    def _fetch_one_ahead(self, shard: int) -> None:
        done = False
        # Where it cannot be had now, it is tried again at the next batch, or the reader is told when it asks for it.
        with contextlib.suppress(CacheError, StoreError):
            done = self._fetch(shard, patient=False)
        with self._guard:
            self._fetching.discard(shard)
        if done:
            self._fetch_ahead()

    def _fetch(self, shard: int, *, patient: bool) -> bool:
        """Place a copy of a shard, and return whether this call has fetched it.

        A patient one waits for others that fetch it and for room, and takes the place of all that is not in use.
        """
        with self._guard:
            turns = self._turns
        least = 0 if patient else turns.get(shard, 0)

        def rank(copy: Copy) -> tuple[float, float] | None:
            # First what nobody knows a need for, the oldest first; then what the plan needs last. A fetch ahead takes
            # nothing that is needed sooner than what it fetches, and nobody takes what is in use now.
            number = self._copies.number(copy)
            turn = math.inf if number is None else turns.get(number, math.inf)
            return (turn, -copy.written) if turn > least else None

        info = self._shards[shard]
        return self._copies.place(shard, info.bytes, lambda: self._verified(info), rank, patient=patient)

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
