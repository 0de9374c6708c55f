"""Training data from an S3 endpoint that fails as stores do: the epoch is exact, each shard is fetched once a node."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hemodist.config.data import AugmentConfig, BatchConfig, DataConfig, MixConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig
from hemodist.dataset.dataset import DataSet
from hemodist.errors import ConfigError
from hemodist.loading.evaluation_batches import stored_batches
from hemodist.loading.training_loader import TrainingLoader
from hemodist.storage import retries
from hemodist.storage.store import Store
from tests.support.dataset import make_dataset
from tests.support.proxy import Fault, Faulty, faulty_proxy
from tests.support.s3 import bucket_at, s3_process

URI = "s3://training/set"
FAULTS: list[Fault] = ["500", "503", "slow", "cut", "short", "drop"]
EPOCHS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), samples=96, per_shard=8, encoding="JPEG")  # 12 shards


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Faulty]:
    """moto's server, a process of its own, behind the proxy; it holds the data set."""
    with s3_process() as process, faulty_proxy(*process) as faulty, bucket_at(faulty.url, "training"):
        near, far = Store.open(folder), Store.open(URI)
        for name, _ in near.list():
            far.write(name, near.read(name))
        yield faulty


def epochs_of(
    dataset: str,
    cache: str,
    rank: int = 0,
    world: int = 1,
    *,
    batch_size: int = 12,
    block_shards: int = 3,
    cache_gb: float | None = None,
) -> list[tuple]:
    """Keys, sums of pixels and sums of targets of every batch that a rank sees."""
    loader = TrainingLoader.open(
        dataset,
        batch_size=batch_size,
        seed=5,
        epochs=EPOCHS,
        augment=AugmentConfig(min_crop_area=0.6, flip_horizontal=0.5),
        mix=MixConfig("cutmix", probability=0.5),
        data=DataConfig(cache=cache, cache_gb=cache_gb, decode_threads=1),
        batch=BatchConfig(mix_group=4, block_shards=block_shards),
        rank=rank,
        world=world,
    )
    seen = [
        (batch.keys, batch.images.sum(dim=(1, 2, 3)).tolist(), batch.targets.sum(dim=1).tolist()) for batch in loader
    ]
    assert not loader.reader.corrupt
    loader.reader.close()
    loader.reader.cache.close()
    return seen


def rank_of(queue, environment: dict[str, str], dataset: str, cache: str, rank: int, world: int) -> None:
    os.environ |= environment
    retries.WAITS = (0.05, 0.05)
    queue.put((rank, epochs_of(dataset, cache, rank, world)))


def node_of(world: int, dataset: str, cache: Path) -> list[list[tuple]]:
    """What the ranks of one node see, each in its own process, with one folder for copies."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.test_loader_store"])
    queue = context.Queue()
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    started = [
        context.Process(target=rank_of, args=(queue, environment, dataset, str(cache), rank, world))
        for rank in range(world)
    ]
    for process in started:
        process.start()
    found = dict(queue.get(timeout=120) for _ in started)
    for process in started:
        process.join()
    return [found[rank] for rank in range(world)]


def whole_gets(server: Faulty) -> Counter[str]:
    shards = [path for method, path in server.served if method == "GET" and path.endswith(".tar")]
    return Counter(path.rsplit("/", 1)[1] for path in shards)


@pytest.mark.timeout(180)
def test_the_epoch_from_a_failing_store_is_exact_and_each_shard_is_fetched_once_a_node(
    server: Faulty, folder: Path, tmp_path: Path
) -> None:
    server.begin(lambda method, path, number: FAULTS[number // 3 % len(FAULTS)] if number % 3 == 0 else None)
    shares = node_of(2, URI, tmp_path)
    assert {fault for _, fault in server.failed} == set(FAULTS)
    alone = epochs_of(str(folder), str(tmp_path))
    for step, parts in zip(alone, zip(*shares, strict=True), strict=True):
        for field, *pieces in zip(step, *parts, strict=True):
            assert [value for piece in pieces for value in piece] == list(field)
    keys = [key for step in alone for key in step[0]]
    train = len(set(keys))
    assert train > 60
    for epoch in range(EPOCHS):
        assert len(set(keys[epoch * train : (epoch + 1) * train])) == train
    # An answer that was cut or short is not whole and does not count; a slow one does.
    names = [info.name.rsplit("/", 1)[1] for info in DataSet.open(str(folder)).manifest.shards]
    assert whole_gets(server) == dict.fromkeys(names, 1)


def test_evaluation_reads_through_a_small_cache_each_slice_once(
    server: Faulty, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "WAITS", (0.05, 0.05))
    server.begin(lambda method, path, number: "503" if number % 5 == 0 else None)
    dataset = DataSet.open(URI)
    largest = max(info.bytes for info in dataset.manifest.shards)
    run = Run(
        name="x",
        data=DataConfig(dataset=URI, cache=str(tmp_path), cache_gb=4 * largest / 1e9),
        batch=BatchConfig(eval_batch_size=10),
        model=ModelConfig(image_size=32),
    )
    rows = np.arange(96)
    seen = [row for batch in stored_batches(dataset, rows, run, torch.device("cpu")) for row in batch.rows.tolist()]
    assert seen == rows.tolist()
    assert set(whole_gets(server).values()) == {1}
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.copy")) <= 4 * largest


def test_a_cache_smaller_than_the_blocks_is_refused_before_anything_is_fetched(server: Faulty, tmp_path: Path) -> None:
    server.begin(lambda method, path, number: None)
    with pytest.raises(
        ConfigError, match=r"shards of together .* use data.cache_gb .* or a smaller batch.block_shards"
    ):
        epochs_of(URI, str(tmp_path), cache_gb=1e-5)
    assert not whole_gets(server)


@pytest.mark.timeout(180)
def test_a_cache_of_some_blocks_only_gives_the_same_epochs(server: Faulty, folder: Path, tmp_path: Path) -> None:
    server.begin(lambda method, path, number: "500" if number % 7 == 0 else None)
    dataset = DataSet.open(str(folder))
    room = 8 * max(info.bytes for info in dataset.manifest.shards)
    small = {"batch_size": 4, "block_shards": 1}
    through = epochs_of(URI, str(tmp_path), cache_gb=room / 1e9, **small)
    assert through == epochs_of(str(folder), str(tmp_path), **small)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.copy")) <= room
    counts = whole_gets(server)
    assert len(counts) == 12
    assert max(counts.values()) <= EPOCHS  # once an epoch and node at most
