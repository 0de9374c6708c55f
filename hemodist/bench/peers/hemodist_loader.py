"""hemodist's own loader as a training rank builds it, with or without augmentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from hemodist.bench.peers.serve import Epoch, Spec, serve
from hemodist.config.data import AugmentConfig, BatchConfig, DataConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig, OptimConfig
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.loading.dali_pipeline import Batch, DaliBatches, Request
from hemodist.loading.decode_settings import DecodeSettings
from hemodist.loading.sample_reader import Reader
from hemodist.loading.shard_cache import ShardCache
from hemodist.loading.training_loader import TrainingLoader
from hemodist.plan.order import Plan
from hemodist.plan.prepare import Prepared
from hemodist.plan.split import Split


def open_loader(spec: Spec) -> Epoch:
    """The loader over all samples of the data set, which its split would keep second copies from."""
    dataset = DataSet.open(spec.dataset)
    reader = Reader(dataset, ShardCache(dataset, spec.work))
    loader = _training(spec, dataset, reader) if spec.shuffle else _in_order(spec, reader)

    def epoch() -> Iterator[torch.Tensor]:
        for batch in loader:
            yield batch.images

    return epoch


def _training(spec: Spec, dataset: DataSet, reader: Reader) -> Iterable[Batch]:
    rows = np.arange(spec.samples, dtype=np.int64)
    run = Run(
        "bench",
        data=DataConfig(decode_threads=len(spec.cores) + 1, prefetch=2),  # no network is in the way
        batch=BatchConfig(global_batch_size=spec.batch, mix_group=1),
        augment=AugmentConfig(**spec.augment or {}),
        model=ModelConfig(image_size=spec.size),
        optim=OptimConfig(epochs=100_000),
    )
    plan = Plan(rows, dataset.column("shard"), run.seed, spec.batch, mix_group=1, block_shards=run.batch.block_shards)
    split = Split(rows, rows[:0], rows[:0], digest="")
    steps = plan.steps(run.optim.epochs)
    prepared = Prepared(
        dataset, dataset.labels(), split, plan, steps, np.zeros(len(LABELS)), np.full(len(LABELS), 2, np.int8), 1.0
    )
    return TrainingLoader(prepared, run, reader, device=spec.device)


def _in_order(spec: Spec, reader: Reader) -> Iterable[Batch]:
    rows = np.arange(spec.samples, dtype=np.int64)
    return DaliBatches(
        reader,
        lambda number: Request(rows[number * spec.batch : (number + 1) * spec.batch]),
        DecodeSettings(image_size=spec.size, device=spec.device, threads=len(spec.cores) + 1),
        start=0,
        stop=spec.samples // spec.batch,
        max_batch=spec.batch,
    )


if __name__ == "__main__":
    serve(open_loader, endless=True)
