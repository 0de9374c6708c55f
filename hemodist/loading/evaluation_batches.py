"""What a network sees of chosen slices, without augmentation: from a data set, or from encoded pictures in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hemodist.config.run import Run
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.dataset.manifest import SCHEMA_VERSION, Manifest
from hemodist.loading.dali_pipeline import MEAN, STD, Batch, Loader, Request
from hemodist.loading.sample_reader import Reader
from hemodist.loading.shard_cache import ShardCache
from hemodist.plan.order import Ahead
from hemodist.storage.store import Store

Ints = npt.NDArray[np.int64]


def batches(
    dataset: DataSet,
    reader: Reader,
    rows: Ints,
    run: Run,
    device: torch.device,
    ahead: Callable[[int, int], Ahead | None] = lambda start, stop: None,
) -> Iterator[Batch]:
    """The rows in their order, `batch.eval_batch_size` at a time, at the network's size and not augmented.

    Args:
        dataset: the data set.
        reader: gives its encoded images.
        rows: int64 [n], rows of the index.
        run: batch size, image size and DALI's settings.
        device: what decodes.
        ahead: the shards needed from the batch on that is made of rows `start` to `stop` - 1.
    """
    size = run.batch.eval_batch_size

    def request_at(number: int) -> Request:
        start, stop = number * size, min((number + 1) * size, len(rows))
        return Request(rows[start:stop], ahead=ahead(start, stop))

    loader = Loader(
        dataset,
        reader,
        request_at,
        start=0,
        stop=-(-len(rows) // size),
        max_batch=size,
        image_size=run.model.image_size,
        device=device,
        threads=run.data.decode_threads,
        prefetch=run.data.batches_ahead(device.type),
        decoder=run.data.decoder if device.type == "cuda" else "cpu",
    )
    try:
        yield from loader
    finally:
        loader.close()


def stored_batches(dataset: DataSet, rows: Ints, run: Run, device: torch.device) -> Iterator[Batch]:
    """`batches` of a data set's own shards, fetched ahead where they are remote."""
    cache = ShardCache(dataset, run.data.cache, limit=run.data.cache_bytes)
    shards = dataset.column("shard")[rows]
    found, first = np.unique(shards, return_index=True)
    order = np.argsort(first)

    def ahead(start: int, stop: int) -> Ahead:
        later = found[order][first[order] >= stop]
        return Ahead(tuple(np.unique(shards[start:stop]).tolist()), tuple(later.tolist()))

    reader = Reader(dataset, cache, run.data.on_corrupt)
    try:
        yield from batches(dataset, reader, rows, run, device, ahead)
    finally:
        cache.close()
        reader.close()


def memory_batches(
    encoded: Sequence[bytes], sharding: Mapping[str, Any], run: Run, device: torch.device
) -> Iterator[Batch]:
    """`batches` of encoded pictures that no data set holds; row i is picture i.

    Args:
        encoded: as the sharder stores them.
        sharding: the configuration that they were made with, as a checkpoint records it.
        run: batch size, image size and DALI's settings.
        device: what decodes.
    """
    unlabelled = pa.table({label: pa.nulls(len(encoded), pa.int8()) for label in LABELS})
    manifest = Manifest(SCHEMA_VERSION, dict(sharding), "", len(encoded), len(encoded), 0, {}, {}, (), "", "")
    dataset = DataSet(Store.open("."), manifest, unlabelled)
    yield from batches(dataset, Pictures(encoded), np.arange(len(encoded)), run, device)


class Pictures(Reader):
    """A reader of pictures in memory; there is no checksum to fail."""

    def __init__(self, encoded: Sequence[bytes]) -> None:
        """Keep the pictures."""
        self._given = encoded
        self.corrupt: set[int] = set()

    def follow(self, ahead: Ahead | None) -> None:
        """Nothing lies ahead: all is here."""

    def read(self, row: int) -> npt.NDArray[np.uint8]:
        """Picture `row`, uint8 [size]."""
        return np.frombuffer(self._given[row], np.uint8)


def pictures(images: torch.Tensor) -> npt.NDArray[np.uint8]:
    """What is to be seen in normalised images [b, 3, h, w]: grey values, uint8 [b, h, w, 3]."""
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    grey = ((images * std + mean) * 255).round().clamp(0, 255).byte()
    shown: npt.NDArray[np.uint8] = grey.permute(0, 2, 3, 1).cpu().numpy()
    return shown
