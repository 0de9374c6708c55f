"""Encoded images by row of the index: slices of memory-mapped shards, checked before anything decodes them.

Touching a page of a map that cannot be read, since the disk is bad or the file has been cut off, ends the process by
SIGBUS, and nobody learns which sample it was. So the kernel is asked for the pages first, which gives an error instead.
"""

from __future__ import annotations

import io
import mmap
import os
import time
import zlib
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from hemodist.dataset.dataset import DataSet
from hemodist.errors import UserError
from hemodist.loading.shard_cache import ShardCache
from hemodist.plan.order import Ahead

Bytes = npt.NDArray[np.uint8]

_POPULATE_READ = 22
"""MADV_POPULATE_READ of Linux 5.14 and newer, which Python does not name: read these pages, or say that it fails."""

_WAITS = (0.1, 1.0)
"""Seconds before a sample is read again that could not be read, as over a network file system."""


class CorruptSampleError(UserError):
    """A sample's bytes do not match its checksum, or cannot be read."""


class Reader:
    """Encoded images by row of the index, checked against their CRC-32.

    Attributes:
        cache: where the shards come from.
        corrupt: rows that failed their checksum or could not be read so far (only with `on_corrupt="mask"`).
    """

    def __init__(self, dataset: DataSet, cache: ShardCache, on_corrupt: Literal["stop", "mask"] = "stop") -> None:
        """Set up; shards are opened when first read."""
        self._dataset = dataset
        self.cache = cache
        self._on_corrupt = on_corrupt
        # Both hold a descriptor of the file, and with it the lock that keeps a copy from being deleted.
        self._open: dict[int, tuple[BinaryIO, mmap.mmap]] = {}
        self._ahead: Ahead | None = None
        self._shard = dataset.column("shard")
        self._offset = dataset.column("offset")
        self._size = dataset.column("size")
        self._crc32 = dataset.column("crc32")
        self._placeholder = _black_image(int(dataset.manifest.config["size"]))
        self.corrupt: set[int] = set()

    def read(self, row: int) -> Bytes:
        """The encoded image of a row, uint8 [size].

        Raises:
            CorruptSampleError: it does not match its checksum or cannot be read, and corrupt samples stop the run.
        """
        encoded, why = self._encoded(row)
        if why and self.cache.renew(int(self._shard[row])):  # perhaps only this node's copy is damaged
            self._close(int(self._shard[row]))
            encoded, why = self._encoded(row)
        if not why:
            return encoded
        if self._on_corrupt == "stop":
            raise CorruptSampleError(
                f"{self.describe(row)} {why}; shard again, "
                "or go on without such samples: on_corrupt mask (--data.on-corrupt in training)"
            )
        self.corrupt.add(row)
        return self._placeholder

    def follow(self, ahead: Ahead | None) -> None:
        """Go on to a batch: close the shards that lie behind, and let those ahead be fetched."""
        if ahead is None:
            return
        if ahead is not self._ahead:
            self._ahead = ahead
            for shard in self._open.keys() - set(ahead.now):
                self._close(shard)
        self.cache.follow(ahead.now, ahead.later)

    def close(self) -> None:
        """Close all shards; what is read afterwards is opened again."""
        for shard in list(self._open):
            self._close(shard)
        self._ahead = None

    def _close(self, shard: int) -> None:
        if shard in self._open:
            self._open.pop(shard)[0].close()  # the map goes with the last image of it

    def _encoded(self, row: int) -> tuple[Bytes, str]:
        """What is there, and what is wrong with it; again after a while where it cannot be read."""
        shard, offset, size = int(self._shard[row]), int(self._offset[row]), int(self._size[row])
        fault = ""
        for wait in (*_WAITS, None):
            try:
                if shard not in self._open:
                    file = self.cache.open(shard)
                    self._open[shard] = file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                encoded = _in_place(*self._open[shard], offset, size)
            except OSError as error:
                fault = f"cannot be read: {error}"
                self._close(shard)  # a file that is opened again may be found in another place
                if wait is not None:
                    time.sleep(wait)
                continue
            right = len(encoded) == size and zlib.crc32(encoded.data) == self._crc32[row]
            return encoded, "" if right else "does not match its checksum"
        return np.empty(0, np.uint8), fault

    def describe(self, row: int) -> str:
        """A sample's key, shard and place."""
        key = self._dataset.index.column("key")[row].as_py()
        name = self._dataset.manifest.shards[int(self._shard[row])].name
        start, end = int(self._offset[row]), int(self._offset[row]) + int(self._size[row])
        return f"sample {key} in {self._dataset.store.uri}/{name} (bytes {start} to {end})"


def _in_place(file: BinaryIO, mapped: mmap.mmap, offset: int, size: int) -> Bytes:
    """Bytes of a map; where the kernel will not promise them, what can be read, which may be less.

    Raises:
        OSError: they cannot be read.
    """
    begin = offset - offset % mmap.PAGESIZE
    try:
        mapped.madvise(_POPULATE_READ, begin, offset + size - begin)
    except OSError:  # cut off, unreadable, or an older kernel
        return np.frombuffer(os.pread(file.fileno(), size, offset), np.uint8)
    return np.frombuffer(mapped, np.uint8, size, offset)


def _black_image(size: int) -> Bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size)).save(buffer, "PNG")
    return np.frombuffer(buffer.getvalue(), np.uint8)
