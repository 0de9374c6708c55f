"""What the decoder asks of encoded pictures with labels, wherever they are, and pictures that are in memory."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hemodist.plan.order import NeededShards

Ints = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int8]


class EncodedPictures(Protocol):
    """Encoded pictures by row, with their labels and names.

    `sample_reader.Reader` gives those of a data set's shards, `PicturesInMemory` those of a list.
    """

    @property
    def where(self) -> str:
        """Where they are, for messages."""

    @property
    def stored_size(self) -> int:
        """Side of the stored pictures in pixels; all are square and of one size."""

    @property
    def windows(self) -> int:
        """How many windows each picture shows, one a channel."""

    @property
    def labels(self) -> Labels | None:
        """Of all rows, int8 [n, 6]: 0, 1 or `UNKNOWN`; None where nothing is labelled."""

    @property
    def corrupt(self) -> Set[int]:
        """Rows so far in whose place a black picture was given, since they could not be read."""

    def keys(self, rows: Ints) -> tuple[str, ...]:
        """Names of the pictures in some rows; empty where they have none."""

    def follow(self, needed: NeededShards | None) -> None:
        """Take note of the shards that a batch and those after it need, before the batch is read; None: not known."""

    def read(self, row: int) -> npt.NDArray[np.uint8]:
        """The encoded picture of a row, uint8 [bytes].

        Raises:
            UserError: it cannot be read.
        """

    def close(self) -> None:
        """Close all files; what is read afterwards is opened again."""


@dataclass(frozen=True)
class PicturesInMemory:
    """Encoded pictures that no data set holds, without labels and names (`EncodedPictures`); row i is picture i.

    Attributes:
        encoded: JPEG or PNG, as the sharder encodes pictures.
        stored_size: side of the pictures in pixels.
        windows: how many windows each shows.
        where: what messages call them.
        labels: none.
        corrupt: no row, since there is no file that could be damaged.
    """

    encoded: Sequence[bytes]
    stored_size: int
    windows: int
    where: str = "a list of pictures in memory"
    labels: None = None
    corrupt: frozenset[int] = frozenset()

    def keys(self, rows: Ints) -> tuple[str, ...]:
        """Nothing: they have no names."""
        return ()

    def follow(self, needed: NeededShards | None) -> None:
        """Nothing to be done: no shard is needed."""

    def read(self, row: int) -> npt.NDArray[np.uint8]:
        """Picture `row`, uint8 [bytes]."""
        return np.frombuffer(self.encoded[row], np.uint8)

    def close(self) -> None:
        """Nothing to be done: no file is open."""
