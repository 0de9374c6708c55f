"""What the bench of whole trainings gives its ways, and how it compares what they answer."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hemodist.bench import quality
from hemodist.bench.peers.training_task import Task, read
from hemodist.bench.quality import OURS, PLAIN, Training
from hemodist.config.data import DataConfig
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.errors import ConfigError, UserError
from hemodist.plan.prepare import divide
from tests.support.dataset import make_dataset

FOLD = 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    make_dataset(folder / "data", samples=40, encoding="JPEG")
    return folder


@pytest.fixture(scope="module")
def task(folder) -> Task:
    quality.write_slices(DataSet.open(str(folder / "data")), FOLD, folder / "slices")
    (folder / "out").mkdir()
    return Task(
        folder=str(folder / "slices"), dataset=str(folder / "data"), valid_fold=FOLD, out=str(folder / "out"), seed=0,
        size=32, epochs=1, batch=8, lr=1e-3, weight_decay=0.01, threads=1,
    )  # fmt: skip


def training(loss: list[float], seconds: list[float], labels: np.ndarray, p: float) -> Training:
    probability = np.stack([np.where(labels == 1, p, 1 - p)] * len(loss))
    return Training(tuple(seconds), tuple(2 * second for second in seconds), probability, tuple(loss))


def test_every_way_reads_the_same_slices_on_the_same_sides(folder, task):
    dataset = DataSet.open(str(folder / "data"))
    split = divide(DataConfig(dataset=str(folder / "data"), valid_fold=FOLD), dataset)
    train, valid = read(task)
    for side, rows in ((train, split.train), (valid, split.valid)):
        assert [int(path.stem) for path in side.files] == rows.tolist()
        assert np.array_equal(side.targets, dataset.labels()[rows])
        assert all(path.read_bytes()[:2] == b"\xff\xd8" for path in side.files)
    with (folder / "slices/slices.csv").open() as file:
        assert next(csv.reader(file)) == ["file", "valid", *LABELS]


@pytest.mark.parametrize("way", [OURS, PLAIN])
def test_a_way_answers_for_each_validation_slice_after_each_epoch(folder, task, tmp_path, way):
    dataset = DataSet.open(str(folder / "data"))
    labels = dataset.labels()[divide(DataConfig(dataset=str(folder / "data"), valid_fold=FOLD), dataset).valid]
    found = quality.run(way, replace(task, out=str(tmp_path)), sys.executable, labels)
    assert found.probability.shape == (1, *labels.shape)
    assert ((found.probability > 0) & (found.probability < 1)).all()
    assert len(found.losses) == len(found.seconds) == len(found.cpu_seconds) == 1
    assert 0 < found.losses[0] < 20


def test_a_way_that_fails_is_named_with_what_it_wrote_last(task, tmp_path):
    labels = np.zeros((1, 6), np.int8)
    with pytest.raises(UserError, match=r"plain PyTorch loop ended with code 1 after 0 epochs; .*slices.csv"):
        quality.run(PLAIN, replace(task, folder=str(tmp_path), out=str(tmp_path)), sys.executable, labels)


def test_the_plain_loops_peer_has_fewer_than_100_lines():
    lines = (Path(quality.__file__).parent / "peers/plain_training.py").read_text().splitlines()
    assert len(lines) < 100


def test_png_and_unknown_labels_are_refused(tmp_path):
    make_dataset(tmp_path / "png", samples=40)
    with pytest.raises(ConfigError, match="give a data set of JPEGs"):
        quality.write_slices(DataSet.open(str(tmp_path / "png")), FOLD, tmp_path / "slices")
    make_dataset(tmp_path / "unknown", samples=40, encoding="JPEG", unknown=("epidural",))
    with pytest.raises(ConfigError, match="has unknown labels"):
        quality.bench_quality(tmp_path / "unknown", tmp_path / "work", quick=True, fastai_python="python")


def test_differences_are_paired_and_the_time_to_the_plain_loops_score_is_that_of_the_first_epoch_that_reaches_it(task):
    rng = np.random.default_rng(0)
    labels = np.tile((rng.random((60, 1)) < 0.5), (1, 6)).astype(np.int8)
    better = training([0.6, 0.29, 0.2], [10.0, 20.0, 30.0], labels, 0.8)
    worse = training([0.7, 0.5, 0.3], [10.0, 20.0, 40.0], labels, 0.7)
    found = quality.compare({OURS: [better], PLAIN: [worse]}, labels, np.arange(60, dtype=np.int32) // 6, task, {})
    name = f"weighted_log_loss: {OURS} - {PLAIN}"
    # Each slice is right by 0.8 or 0.7, so that every resample has the same difference.
    for end in ("value", "low", "high"):
        assert found.figures[name][end] == pytest.approx(np.log(0.7) - np.log(0.8))
    assert found.figures["time to the plain loop's final score"] == [(20 / 40, 20 / 40)]
    assert quality.times_to_final(worse, better) == (float("inf"), float("inf"))
