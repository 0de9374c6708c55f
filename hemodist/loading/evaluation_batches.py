"""What a network sees of chosen slices, without augmentation: from a data set, or from encoded pictures in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hemodist.config.run import Run
from hemodist.dataset.dataset import DataSet
from hemodist.loading.dali_pipeline import Batch, DaliBatches, Request
from hemodist.loading.decode_settings import DecodeSettings
from hemodist.loading.encoded_pictures import EncodedPictures, PicturesInMemory
from hemodist.loading.pixels import MEAN, STD
from hemodist.loading.sample_reader import Reader
from hemodist.loading.shard_cache import ShardCache
from hemodist.plan.order import NeededShards

Ints = npt.NDArray[np.int64]


def batches(
    pictures: EncodedPictures,
    rows: Ints,
    run: Run,
    device: torch.device,
    needed: Callable[[int, int], NeededShards | None] = lambda start, stop: None,
) -> Iterator[Batch]:
    """The rows in their order, `batch.eval_batch_size` at a time, at the network's size and not augmented.

    Args:
        pictures: the encoded pictures.
        rows: int64 [n], rows of them.
        run: batch size, image size and DALI's settings.
        device: what decodes.
        needed: gives the shards that the batch of rows `start` to `stop` - 1 and those after it need.
    """
    size = min(run.batch.eval_batch_size, max(len(rows), 1))  # DALI makes room for whole batches
    settings = DecodeSettings.of_run(run, device)
    if device.type != "cuda":  # a run that decodes on a GPU may be evaluated on a machine without one
        settings = replace(settings, decoder="cpu")

    def request_at(number: int) -> Request:
        start, stop = number * size, min((number + 1) * size, len(rows))
        return Request(rows[start:stop], needed=needed(start, stop))

    yield from DaliBatches(pictures, request_at, settings, start=0, stop=-(-len(rows) // size), max_batch=size)


def stored_batches(dataset: DataSet, rows: Ints, run: Run, device: torch.device) -> Iterator[Batch]:
    """`batches` of a data set's own shards, which are fetched before they are needed where they are remote."""
    cache = ShardCache(dataset, run.data.cache, limit=run.data.cache_bytes)
    shards = dataset.column("shard")[rows]
    found, first = np.unique(shards, return_index=True)
    order = np.argsort(first)

    def needed(start: int, stop: int) -> NeededShards:
        later = found[order][first[order] >= stop]
        return NeededShards(tuple(np.unique(shards[start:stop]).tolist()), tuple(later.tolist()))

    reader = Reader(dataset, cache, run.data.on_corrupt)
    try:
        yield from batches(reader, rows, run, device, needed)
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
    pictures = PicturesInMemory(encoded, stored_size=int(sharding["size"]), windows=len(sharding["windows"]))
    yield from batches(pictures, np.arange(len(encoded)), run, device)


def grey_values(images: torch.Tensor) -> npt.NDArray[np.uint8]:
    """The grey values, uint8 [b, h, w, 3], of normalised images [b, 3, h, w]."""
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    grey = ((images * std + mean) * 255).round().clamp(0, 255).byte()
    shown: npt.NDArray[np.uint8] = grey.permute(0, 2, 3, 1).cpu().numpy()
    return shown
