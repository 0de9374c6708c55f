"""Encoded images by row of the index: slices of memory-mapped shards, checked before anything decodes them."""

from __future__ import annotations

import io
import mmap
import zlib
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from hemodist.cache import ShardCache
from hemodist.errors import UserError
from hemodist.manifest import DataSet
from hemodist.plan import Ahead

Bytes = npt.NDArray[np.uint8]


class CorruptSampleError(UserError):
    """A sample's bytes do not match its checksum."""


class Reader:
    """Encoded images by row of the index, from memory-mapped shards, checked against their CRC-32.

    Attributes:
        cache: where the shards come from.
        corrupt: rows that failed their checksum so far (only with `on_corrupt="mask"`).
    """

    def __init__(self, dataset: DataSet, cache: ShardCache, on_corrupt: Literal["stop", "mask"] = "stop") -> None:
        """Set up; shards are mapped when first read."""
        self._dataset = dataset
        self.cache = cache
        self._on_corrupt = on_corrupt
        # A map holds a descriptor of its file, and with it the lock that keeps a copy from being deleted.
        self._maps: dict[int, mmap.mmap] = {}
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
            CorruptSampleError: it does not match its checksum, and corrupt samples stop the run.
        """
        encoded = self._encoded(row)
        if zlib.crc32(encoded.data) == self._crc32[row]:
            return encoded
        shard = int(self._shard[row])
        if self.cache.renew(shard):  # perhaps only this node's copy is damaged
            del self._maps[shard]
            encoded = self._encoded(row)
            if zlib.crc32(encoded.data) == self._crc32[row]:
                return encoded
        if self._on_corrupt == "stop":
            raise CorruptSampleError(
                f"{self.describe(row)} does not match its checksum; shard again, "
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
            for shard in self._maps.keys() - set(ahead.now):
                del self._maps[shard]
        self.cache.follow(ahead.now, ahead.later)

    def close(self) -> None:
        """Close all shards; what is read afterwards is opened again."""
        self._maps.clear()
        self._ahead = None

    def _encoded(self, row: int) -> Bytes:
        shard = int(self._shard[row])
        if shard not in self._maps:
            with self.cache.open(shard) as file:
                self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(self._maps[shard], np.uint8, int(self._size[row]), int(self._offset[row]))

    def describe(self, row: int) -> str:
        """A sample's key, shard and place."""
        key = self._dataset.index.column("key")[row].as_py()
        name = self._dataset.manifest.shards[int(self._shard[row])].name
        start, end = int(self._offset[row]), int(self._offset[row]) + int(self._size[row])
        return f"sample {key} in {self._dataset.store.uri}/{name} (bytes {start} to {end})"


def _black_image(size: int) -> Bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size)).save(buffer, "PNG")
    return np.frombuffer(buffer.getvalue(), np.uint8)
