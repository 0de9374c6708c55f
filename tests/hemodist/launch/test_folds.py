"""A k-fold run answers for each slice by a network that never saw its group, and predicts by the mean of all."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hemodist.config.command_line import read_recipe
from hemodist.config.data import EACH_FOLD, BatchConfig
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.config.run import MOST_FOLDS, Run, check, runs_of_folds
from hemodist.config.training import ModelConfig, OptimConfig
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.errors import ConfigError, UserError
from hemodist.launch import folds as launch
from hemodist.launch import many_runs
from hemodist.launch.evaluate import evaluate
from hemodist.launch.folds import train_folds
from hemodist.launch.train import train
from hemodist.metrics.log_loss import weighted_log_loss
from hemodist.models.checkpoint_file import CheckpointError
from hemodist.models.trained import open_trained
from hemodist.plan.prepare import divide
from hemodist.plan.split import fold_of
from hemodist.predict.networks import networks, settings_of
from hemodist.predict.new_slices import predict_dataset
from hemodist.predict.options import PredictConfig
from hemodist.scoring.options import Options, ScoringRequest
from tests.support.dataset import make_dataset

FOLDS, TEST = 4, 2
RUNS = ["k-fold0", "k-fold1", "k-fold3"]


def run_of(folder: Path, **changes) -> Run:
    run = Run(
        name="k",
        output=str(folder / "runs"),
        batch=BatchConfig(global_batch_size=16, mix_group=2, block_shards=2),
        model=ModelConfig(name="shufflenet_v2_x0_5", image_size=32),
        optim=OptimConfig(lr=1e-3, epochs=1),
        scaling=ScalingConfig(workers=0, device="cpu"),
        tracking=TrackingConfig(mode="disabled"),
    )
    data = replace(
        run.data, dataset=str(folder / "data"), decode_threads=1, folds=FOLDS, valid_fold=EACH_FOLD, test_fold=TEST
    )
    return replace(run, data=data, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What a k-fold run leaves whose second fold failed at first."""
    folder = tmp_path_factory.mktemp("folds")
    make_dataset(folder / "data", samples=150, patients=40)
    make_dataset(folder / "new", samples=30, patients=6, seed=7)
    wrong = pytest.MonkeyPatch()
    real = many_runs.train

    def failing(run, world, tell):
        if run.name == "k-fold1":
            raise UserError("the disk is full")
        return real(run, world, tell)

    wrong.setattr(many_runs, "train", failing)
    with pytest.raises(UserError, match=r"1 of 3 folds failed \(k-fold1: the disk is full\)"):
        train_folds(run_of(folder))
    wrong.undo()
    with pytest.raises(CheckpointError, match=r"of 3 folds, of which 1 are not finished \(k-fold1\)"):
        settings_of(PredictConfig(str(folder / "runs/k"), str(folder / "new")))
    trained = []
    wrong.setattr(many_runs, "train", lambda run, world, tell: trained.append(run.name) or real(run, world, tell))
    train_folds(run_of(folder))
    assert trained == ["k-fold1"]
    wrong.undo()
    return folder


def rows_of(path: Path) -> dict[str, dict]:
    return {row["key"]: row for row in pq.read_table(path).to_pylist()}


def probability(rows: dict[str, dict], keys) -> np.ndarray:
    return np.array([[rows[key][label] for label in LABELS] for key in keys])


def test_each_slice_is_predicted_once_by_a_network_that_never_saw_its_group(folder):
    table = pq.read_table(folder / "runs/k/predictions.parquet")
    dataset = DataSet.open(str(folder / "data"))
    groups = dataset.column("group")
    keys = dataset.index.column("key").to_pylist()
    expected = fold_of(groups, FOLDS, 0)
    wanted = [key for key, fold in zip(keys, expected, strict=True) if fold != TEST]
    assert sorted(table.column("key").to_pylist()) == sorted(wanted)
    of_key = dict(zip(keys, expected, strict=True))
    assert [of_key[key] for key in table.column("key").to_pylist()] == table.column("fold").to_pylist()
    for name in RUNS:
        trained = open_trained(str(folder / "runs/k" / name))
        seen = set(groups[divide(trained.run.data, dataset).train].tolist())
        mine = table.filter(pa.compute.equal(table.column("fold"), trained.run.data.valid_fold))
        assert mine.num_rows > 0
        assert not seen & set(mine.column("group").to_pylist())
        own = rows_of(folder / "runs/k" / name / "predictions.parquet")
        assert own.keys() == set(mine.column("key").to_pylist())
        together = {row["key"]: row for row in mine.to_pylist()}
        np.testing.assert_allclose(probability(together, own), probability(own, own), atol=1e-6)


def test_the_scores_are_those_of_all_slices_together(folder):
    found = json.loads((folder / "runs/k/metrics.json").read_text())
    rows = rows_of(folder / "runs/k/predictions.parquet")
    labels = np.array([[row[f"label_{label}"] for label in LABELS] for row in rows.values()])
    assert found["slices"] == len(rows)
    assert found["weighted_log_loss"]["value"] == pytest.approx(weighted_log_loss(probability(rows, rows), labels))
    page = (folder / "runs/k/report.html").read_text()
    assert "each slice by the one that has not learned its fold" in page
    assert "best checkpoint was chosen on this very part" in page


def predicted(folder: Path, *runs: str) -> np.ndarray:
    settings = settings_of(PredictConfig(str(folder / "runs/k"), str(folder / "new"), device="cpu"))
    if runs:
        settings = replace(settings, checkpoints=tuple(str(folder / "runs/k" / name) for name in runs))
    networks.cache_clear()
    return predict_dataset(settings, DataSet.open(str(folder / "new")), lambda event: None).probability


def test_the_ensemble_predicts_the_mean_of_its_networks(folder):
    each = [predicted(folder, name) for name in RUNS]
    assert not np.allclose(each[0], each[1], atol=1e-4)
    np.testing.assert_allclose(predicted(folder), np.mean(each, axis=0), atol=1e-12)


@pytest.mark.parametrize(("data", "part", "slices"), [("new", "auto", 30), ("data", "test", None)])
def test_slices_that_none_has_seen_are_scored_by_the_mean(folder, tmp_path, data, part, slices):
    run, made = str(folder / "runs/k"), str(folder / data)
    scaling = ScalingConfig(workers=0, device="cpu")
    evaluate(ScoringRequest(run, made, str(tmp_path / "all"), Options(part=part)), scaling)
    together = rows_of(tmp_path / "all/predictions.parquet")
    assert len(together) == (slices or sum(fold_of(DataSet.open(made).column("group"), FOLDS, 0) == TEST))
    each = []
    for name in RUNS:
        evaluate(ScoringRequest(f"{run}/{name}", made, str(tmp_path / name), Options(part=part, worst=0)), scaling)
        each.append(probability(rows_of(tmp_path / name / "predictions.parquet"), together))
    np.testing.assert_allclose(probability(together, together), np.mean(each, axis=0), atol=1e-6)
    assert "No pictures of the worst slices" in (tmp_path / "all/report.html").read_text()


def test_a_finished_k_fold_run_is_only_scored_again(folder, monkeypatch, capsys):
    monkeypatch.setattr(many_runs, "train", lambda *given: pytest.fail("a fold was trained again"))
    monkeypatch.setattr(launch, "evaluate", lambda request, scaling: request.checkpoint)
    assert train_folds(run_of(folder)) == str(folder / "runs/k")
    assert "3, of which 3 are trained" in capsys.readouterr().out


def test_one_name_is_one_run_or_one_k_fold_run(folder):
    single = replace(run_of(folder), data=replace(run_of(folder).data, valid_fold=1))
    with pytest.raises(ConfigError, match="holds a k-fold run; give this one another --name"):
        train(single)
    below = replace(run_of(folder, name="k-fold0"), output=str(folder / "runs/k"))
    with pytest.raises(ConfigError, match="holds a run of one fold"):
        train_folds(below)
    with pytest.raises(CheckpointError, match="wants one network; give the run of a fold"):
        open_trained(str(folder / "runs/k"))


def test_other_settings_under_the_same_name_are_refused(folder):
    with pytest.raises(ConfigError, match=r"optim\.epochs was 1, is 2"):
        train_folds(run_of(folder, optim=OptimConfig(lr=1e-3, epochs=2)))


def test_all_is_a_word_of_the_command_line_and_makes_a_run_for_each_fold(monkeypatch):
    def read(*flags: str) -> Run:
        monkeypatch.setattr(sys, "argv", ["train.py", "resnet18", "--data.dataset", "d", *flags])
        return read_recipe("", "", lambda run: run).config

    run = read("--data.valid-fold", "all", "--data.test-fold", "3", "--output", "s3://b/runs/")
    runs = runs_of_folds(run)
    assert [one.name for one in runs] == [f"resnet18-fold{fold}" for fold in (0, 1, 2, 4)]
    assert {one.output for one in runs} == {"s3://b/runs/resnet18"}
    for one in runs:
        check(one)
    assert read("--data.valid-fold", "2").data.valid_fold == 2
    with pytest.raises(ConfigError, match=r"is for jobs/train\.py only"):
        check(run)
    with pytest.raises(ConfigError, match=f"use 2 to {MOST_FOLDS} folds"):
        runs_of_folds(read("--data.valid-fold", "all", "--data.folds", "2000000000"))
