"""Reads encoded pictures from shards, by row of the index, and checks each one before anything decodes it.

A shard is mapped into memory, and a picture is a part of that map. Touching a page of a map that cannot be read, since
the disk is bad or the file has been cut off, ends the process by SIGBUS, and nobody learns which sample it was. So the
kernel is asked for the pages first, which gives an error instead. DALI decodes from the map itself, without a copy, so
a file that is cut off between the check and the decoding would still end the process.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from PIL import Image

from hemodist.dataset.dataset import DataSet
from hemodist.errors import UserError
from hemodist.loading.shard_cache import ShardCache
from hemodist.plan.order import NeededShards

Bytes = npt.NDArray[np.uint8]

_POPULATE_READ = 22
"""MADV_POPULATE_READ of Linux 5.14 and newer, which Python does not name: read these pages, or say that it fails."""

_LIBC = ctypes.CDLL(None)
"""The C library. While one of its calls waits for a disk, other Python threads run; `mmap.madvise` stops them all."""

_WAITS = (0.1, 1.0)
"""Seconds before a sample is read again that could not be read, as over a network file system."""


class CorruptSampleError(UserError):
    """A sample's bytes do not match its checksum, or cannot be read."""


class Reader:
    """The encoded pictures of a data set (`EncodedPictures`), each checked against its CRC-32.

    Attributes:
        cache: where the shards come from.
        where: the data set's path or URI.
        stored_size: side of the stored pictures in pixels.
        windows: how many windows each shows.
        corrupt: rows that failed their checksum or could not be read so far (only with `on_corrupt="mask"`).
    """

    def __init__(self, dataset: DataSet, cache: ShardCache, on_corrupt: Literal["stop", "mask"] = "stop") -> None:
        """Set up; shards are opened when first read."""
        self._dataset = dataset
        self.cache = cache
        self._on_corrupt = on_corrupt
        # Both hold a descriptor of the file, and with it the lock that keeps a cached shard from being deleted.
        self._open: dict[int, tuple[BinaryIO, Bytes]] = {}
        self._needed: NeededShards | None = None
        self._shard = dataset.column("shard")
        self._offset = dataset.column("offset")
        self._size = dataset.column("size")
        self._crc32 = dataset.column("crc32")
        self.where = dataset.store.uri
        self.stored_size = int(dataset.manifest.config["size"])
        self.windows = len(dataset.manifest.config["windows"])
        self.corrupt: frozenset[int] = frozenset()
        self._placeholder = _black_image(self.stored_size)
        self._lock = threading.RLock()  # training reads ahead on a thread while validation reads

    @cached_property
    def labels(self) -> npt.NDArray[np.int8]:
        """Of all rows, int8 [samples, 6]: 0, 1 or `UNKNOWN`."""
        return self._dataset.labels()

    def keys(self, rows: npt.NDArray[np.int64]) -> tuple[str, ...]:
        """The samples' names in the shards."""
        return tuple(self._dataset.index.column("key").take(rows).to_pylist())

    def read(self, row: int) -> Bytes:
        """The encoded picture of a row, uint8 [bytes]; a black one in place of a corrupt sample that is masked out.

        Raises:
            CorruptSampleError: it does not match its checksum or cannot be read, and corrupt samples stop the run.
        """
        with self._lock:
            encoded, why = self._encoded(row)
            if why and self.cache.renew(int(self._shard[row])):  # perhaps only this node's cached shard is damaged
                self._close(int(self._shard[row]))
                encoded, why = self._encoded(row)
        if not why:
            return encoded
        if self._on_corrupt == "stop":
            raise CorruptSampleError(
                f"{self.describe(row)} {why}; shard again, "
                "or go on without such samples: on_corrupt mask (--data.on-corrupt in training)"
            )
        self.corrupt = self.corrupt | {row}  # a new set: other threads look at the old one
        return self._placeholder

    def follow(self, needed: NeededShards | None) -> None:
        """Close the shards that are not needed now, and let those that are needed later be fetched."""
        if needed is None:
            return
        with self._lock:
            if needed is not self._needed:
                self._needed = needed
                for shard in self._open.keys() - set(needed.now):
                    self._close(shard)
        self.cache.follow(needed.now, needed.later)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """All shards are closed, and whoever reads waits until the end: what others read may need the room."""
        with self._lock:
            for shard in list(self._open):
                self._close(shard)
            self._needed = None
            yield

    def close(self) -> None:
        """Close all shards; what is read afterwards is opened again."""
        with self.closed():
            pass

    def _close(self, shard: int) -> None:
        if shard in self._open:
            self._open.pop(shard)[0].close()  # the map goes with the last image of it

    def _encoded(self, row: int) -> tuple[Bytes, str]:
        """The bytes of a row, and what is wrong with them (empty for nothing); read again where that fails at first."""
        shard, offset, size = int(self._shard[row]), int(self._offset[row]), int(self._size[row])
        fault = ""
        for wait in (*_WAITS, None):
            try:
                if shard not in self._open:
                    file = self.cache.open(shard)
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    self._open[shard] = file, np.frombuffer(mapped, np.uint8)
                encoded = _in_place(*self._open[shard], offset, size)
            except OSError as error:
                fault = f"cannot be read: {error}"
                self._close(shard)  # a file that is opened again may be found in another place
                if wait is not None:
                    time.sleep(wait)
                continue
            right = len(encoded) == size and isal_zlib.crc32(encoded.data) == self._crc32[row]
            return encoded, "" if right else "does not match its checksum"
        return np.empty(0, np.uint8), fault

    def describe(self, row: int) -> str:
        """A sample's key, shard and place."""
        key = self._dataset.index.column("key")[row].as_py()
        name = self._dataset.manifest.shards[int(self._shard[row])].name
        start, end = int(self._offset[row]), int(self._offset[row]) + int(self._size[row])
        return f"sample {key} in {self._dataset.store.uri}/{name} (bytes {start} to {end})"


def _in_place(file: BinaryIO, mapped: Bytes, offset: int, size: int) -> Bytes:
    """Bytes of a map; where the kernel does not promise them, those that can be read from the file, perhaps fewer.

    Raises:
        OSError: they cannot be read.
    """
    before = offset % mmap.PAGESIZE
    begin, length = ctypes.c_void_p(mapped.ctypes.data + offset - before), ctypes.c_size_t(size + before)
    if _LIBC.madvise(begin, length, _POPULATE_READ) != 0:  # cut off, unreadable, or an older kernel
        return np.frombuffer(os.pread(file.fileno(), size, offset), np.uint8)
    return mapped[offset : offset + size]


def _black_image(size: int) -> Bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size)).save(buffer, "PNG")
    return np.frombuffer(buffer.getvalue(), np.uint8)
