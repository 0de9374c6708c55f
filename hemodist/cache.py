"""Where a shard can be read from on this node: in place, or a verified copy fetched from the object store.

Copies are shared by the node's workers: a lock file lets one of them fetch a shard, the others wait for it. A copy is
placed by a rename after its SHA-256 matched the manifest, so a name that exists is whole and right.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hemodist.errors import UserError
from hemodist.manifest import DataSet, ShardInfo, sha256
from hemodist.store import Store

_FETCHERS = 4
"""Shards fetched at the same time by a worker."""


class CacheError(UserError):
    """A shard cannot be had on this node."""

    transient = True


class ShardCache:
    """Local paths of the shards of one data set."""

    def __init__(self, dataset: DataSet, folder: str, *, attempts: int = 3) -> None:
        """Set up; nothing is fetched yet.

        Args:
            dataset: the data set.
            folder: node-local folder for copies; made when the first shard is fetched.
            attempts: fetches of a shard that fails its digest before giving up.
        """
        self._store = dataset.store
        self._shards = dataset.manifest.shards
        self._attempts = attempts
        # Named by the digest: copies of another version of the data set are never taken for this one's.
        self._copies = Store.open(Path(folder).expanduser() / dataset.manifest.digest[:32])
        self._pool = ThreadPoolExecutor(_FETCHERS, "shard-fetch") if not self._store.is_local else None

    def path(self, shard: int) -> Path:
        """The local path of a shard, fetching it first where that is needed.

        Args:
            shard: position in the manifest's list.

        Raises:
            CacheError: it is missing, of the wrong size, or fails its digest again and again.
            StoreError: the store cannot be read.
        """
        info = self._shards[shard]
        if self._store.is_local:
            self._check_size(info, self._store)
            return self._store.local(info.name)
        if self._copies.size(info.name) is None:
            self._fetch(info)
        return self._copies.local(info.name)

    def prefetch(self, shards: Iterable[int]) -> None:
        """Begin to fetch shards in the background; errors show when `path` is asked for the shard."""
        if self._pool is not None:
            for shard in shards:
                self._pool.submit(self.path, shard)

    def close(self) -> None:
        """Stop fetching."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _check_size(self, info: ShardInfo, store: Store) -> None:
        size = store.size(info.name)
        if size != info.bytes:
            found = "is missing" if size is None else f"holds {size} bytes"
            raise CacheError(
                f"{store.uri}/{info.name} {found}, the manifest says {info.bytes}; "
                f"run `python -m shards verify {store.uri}`"
            )

    def _fetch(self, info: ShardInfo) -> None:
        target = self._copies.local(info.name)
        with _locked(target.with_suffix(".lock")):
            if target.exists():
                return  # another worker of this node was first
            free = shutil.disk_usage(target.parent).free
            if free < info.bytes:
                raise CacheError(
                    f"{target.parent} has {free} bytes free, shard {info.name} needs {info.bytes}; "
                    "free some space or point --data.cache to a larger disk"
                )
            digests = []
            for _ in range(self._attempts):
                content = self._store.read(info.name)
                digests.append(sha256(content))
                if digests[-1] == info.sha256:
                    self._copies.write(info.name, content)
                    return
        raise CacheError(
            f"{self._store.uri}/{info.name} was fetched {self._attempts} times and never matched its SHA-256 "
            f"{info.sha256} (got {', '.join(sorted(set(digests)))}); run `python -m shards verify {self._store.uri}`"
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the workers of this node share; the kernel frees it when its holder dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise CacheError(f"cannot use the cache folder {path.parent}: {error}; set --data.cache to another") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
