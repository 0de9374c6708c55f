"""What other trainers read through WebDataset is what hemodist's own loader reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hemodist.config.data import DataConfig
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.manifest import DatasetError
from hemodist.loading.evaluation_batches import grey_values, stored_batches
from hemodist.loading.plain_webdataset import webdataset_of
from hemodist.plan.prepare import divide
from tests.support.checkpoints import run_of
from tests.support.dataset import make_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("webdataset") / "data", encoding="JPEG", json=True)


@pytest.mark.parametrize("part", ["train", "valid"])
@pytest.mark.parametrize("split", [None, DataConfig(folds=3, valid_fold=2, subset=60)])
def test_pictures_labels_and_keys_are_those_of_the_loader(folder, part, split):
    dataset = DataSet.open(str(folder))
    run = run_of()
    run = replace(run, model=replace(run.model, image_size=32))
    rows = getattr(divide(split or DataConfig(), dataset), part)
    pictures = np.concatenate([grey_values(b.images) for b in stored_batches(dataset, rows, run, torch.device("cpu"))])
    wanted = {dataset.index.column("key")[row].as_py(): at for at, row in enumerate(rows.tolist())}
    found = list(webdataset_of(str(folder), part, split))
    assert sorted(sample["key"] for sample in found) == sorted(wanted)
    for sample in found:
        at = wanted[sample["key"]]
        assert np.array_equal(sample["image"], pictures[at])
        assert np.array_equal(sample["labels"], dataset.labels()[rows[at]])


def test_the_workers_of_a_torch_loader_give_each_sample_once(folder):
    loader = torch.utils.data.DataLoader(webdataset_of(str(folder), "all"), batch_size=None, num_workers=2)
    keys = [sample["key"] for sample in loader]
    assert sorted(keys) == sorted(DataSet.open(str(folder)).index.column("key").to_pylist())


def test_a_damaged_sample_is_named(tmp_path):
    folder = make_dataset(tmp_path / "data", samples=30)
    tar = folder / "shards/000000.tar"
    content = bytearray(tar.read_bytes())
    row = DataSet.open(str(folder)).index.slice(3, 1).to_pylist()[0]
    content[row["offset"] + row["size"] - 20] ^= 1
    tar.write_bytes(content)
    with pytest.raises(DatasetError, match=f"sample {row['key']} does not match its checksum"):
        list(webdataset_of(str(folder), "all"))
