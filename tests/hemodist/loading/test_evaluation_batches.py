"""Batches of chosen slices are no larger than there are slices, whatever is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hemodist.dataset.dataset import DataSet
from hemodist.loading.evaluation_batches import memory_batches, stored_batches
from tests.support.checkpoints import run_of
from tests.support.dataset import make_dataset

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> DataSet:
    return DataSet.open(str(make_dataset(tmp_path_factory.mktemp("data"), samples=12, per_shard=6)))


def run_with(dataset: DataSet, size: int):
    run = run_of()
    data = replace(run.data, dataset=dataset.store.uri, decode_threads=1)
    return replace(run, data=data, batch=replace(run.batch, eval_batch_size=size))


def test_a_batch_far_beyond_a_data_sets_slices_takes_no_room_for_more_of_them(dataset):
    rows = np.arange(12)
    (whole,) = stored_batches(dataset, rows, run_with(dataset, 2**31 - 1), CPU)
    parts = list(stored_batches(dataset, rows, run_with(dataset, 5), CPU))
    assert [len(part.rows) for part in parts] == [5, 5, 2]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)


def test_a_batch_far_beyond_the_pictures_in_memory_takes_no_room_for_more_of_them(dataset):
    first = Path(dataset.store.local(dataset.manifest.shards[0].name)).read_bytes()
    starts, sizes = dataset.column("offset")[:6], dataset.column("size")[:6]
    encoded = [first[start : start + size] for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)]
    (batch,) = memory_batches(encoded, dataset.manifest.config, run_with(dataset, 2**31 - 1), CPU)
    assert len(batch.images) == 6


def test_no_slices_are_no_batches(dataset):
    assert list(stored_batches(dataset, np.arange(0), run_with(dataset, 2**31 - 1), CPU)) == []
