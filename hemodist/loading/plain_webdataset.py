"""A data set as a plain WebDataset pipeline, for notebooks and trainers that have a loader of their own.

    for sample in webdataset_of("rsna-256", "train"):
        sample["key"], sample["image"], sample["labels"]

There is no augmentation, no order of hemodist's and no cache; the pictures are what the training loader decodes.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import webdataset
from PIL import Image
from webdataset import tariterators

from hemodist.config.data import DataConfig
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.manifest import DatasetError
from hemodist.plan.prepare import divide
from hemodist.storage.store import Store

Part = Literal["train", "valid", "test", "all"]


def webdataset_of(dataset: str, part: Part = "train", split: DataConfig | None = None) -> webdataset.DataPipeline:
    """The samples of a part of a data set, in the order of the shards.

    The workers of a PyTorch DataLoader read different shards, so that together they give each sample once; shuffle with
    `.compose(webdataset.shuffle(1000))`, and map as any other pipeline.

    Args:
        dataset: path or URI of a finished data set.
        part: of the split, or all samples, duplicates and unlabelled ones among them.
        split: folds, subset and selection; its `dataset` is not looked at. None for five folds of which the first
            validates, as a run has them.

    Returns:
        A pipeline of dictionaries: `key`, str; `image`, uint8 [rows, columns, windows], or [rows, columns] of one
        window; `labels`, int8 [6] in the order of `LABELS`, `UNKNOWN` where nobody knows.

    Raises:
        DatasetError: there is no such data set. While it is read: a sample does not match its checksum.
        ConfigError: the part is empty.
    """
    opened = DataSet.open(dataset)
    rows = np.arange(len(opened.index)) if part == "all" else getattr(divide(split or DataConfig(), opened), part)
    keys = opened.index.column("key").take(rows).to_pylist()
    shards = [opened.manifest.shards[number].name for number in np.unique(opened.column("shard")[rows]).tolist()]
    decode = _Decode(
        opened.store.uri, dict(zip(keys, rows.tolist(), strict=True)), opened.column("crc32"), opened.labels()
    )
    return webdataset.DataPipeline(
        webdataset.SimpleShardList(shards),
        webdataset.split_by_worker,
        _Read(opened.store.uri),
        tariterators.tar_file_expander,
        tariterators.group_by_keys,
        decode,
    )


@dataclass(frozen=True)
class _Read:
    """Reads tars from a store; pipeline stages go to worker processes, so they hold a URI and no connection."""

    uri: str

    def __call__(self, shards: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        store = Store.open(self.uri)
        for shard in shards:
            yield shard | {"stream": io.BytesIO(store.read(shard["url"]))}


@dataclass(frozen=True, eq=False)
class _Decode:
    """Keeps the chosen samples, checks them by CRC-32, and decodes them."""

    uri: str
    rows: dict[str, int]
    crc32: np.ndarray
    labels: np.ndarray

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for sample in samples:
            key = sample["__key__"]
            row = self.rows.get(key)
            if row is None:
                continue
            encoded = sample.get("jpg", sample.get("png", b""))
            if zlib.crc32(encoded) != self.crc32[row]:
                raise DatasetError(
                    f"{self.uri}: sample {key} does not match its checksum; run `python -m shards verify`"
                )
            yield {"key": key, "image": np.asarray(Image.open(io.BytesIO(encoded))), "labels": self.labels[row]}
