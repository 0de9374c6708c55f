"""Files that name no patient, study or series: it is said, and nothing is claimed about patients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hemodist.config.data import BatchConfig, DataConfig
from hemodist.config.run import Run
from hemodist.dataset.dataset import DataSet
from hemodist.launch import train
from hemodist.metrics.predictions import Predictions
from hemodist.plan.prepare import prepare
from hemodist.reports.contents import Description
from hemodist.scoring.write_results import Results, write_results
from hemodist.storage.store import Store
from hemodist.study.gather import gather
from tests.hemodist.study.test_gather import answered
from tests.support.dataset import make_dataset

SAID = "120 of 120 slices are of files that name no patient, study or series"


def run_of(folder: Path) -> Run:
    return Run(
        name="x",
        output=str(folder.parent / "runs"),
        data=DataConfig(dataset=str(folder)),
        batch=BatchConfig(global_batch_size=16),
    )


def results(folder: Path) -> tuple[Results, str]:
    """Scores of answers that know something, and the report's HTML."""
    dataset = DataSet.open(str(folder))
    rows, rng = np.arange(len(dataset.index)), np.random.default_rng(0)
    logits = rng.normal(size=(len(rows), 6)) + 2.0 * (dataset.labels() == 1)
    given = Predictions(rows, logits.astype(np.float32), rng.random(len(rows)))
    store = Store.open(folder.parent / "results")
    made = write_results(store, dataset, given, Description("x", [], {}, {}), np.full(6, 0.3))
    return made, store.read("report.html").decode()


def test_scores_of_nobody_knows_whom_claim_no_interval_over_patients(tmp_path: Path) -> None:
    made, html = results(make_dataset(tmp_path / "dataset", nameless=120))
    assert made.scores is not None
    assert np.isfinite(made.scores.auc_any.value)
    assert np.isnan([made.scores.auc_any.low, made.scores.weighted_log_loss.high]).all()
    assert made.pooled == ()
    assert SAID in html
    assert "no interval over patients is given" in html
    for claim in ("patient groups", "replicates", "In brackets", "Below each score"):
        assert claim not in html
    assert json.loads(Store.open(tmp_path / "results").read("metrics.json"))["nameless_slices"] == 120


def test_a_stray_nameless_file_is_said_and_leaves_the_intervals(tmp_path: Path) -> None:
    made, html = results(make_dataset(tmp_path / "dataset", nameless=1))
    assert made.scores is not None
    assert made.scores.auc_any.low < made.scores.auc_any.value < made.scores.auc_any.high
    assert made.pooled
    assert "1 of 120 slices are of files that name no patient" in html
    assert "no interval over patients" not in html
    assert "patient groups" in html


def test_named_files_are_not_spoken_of(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "dataset")
    assert not any("name no patient" in gap for gap in prepare(run_of(folder)).gaps(run_of(folder)))
    assert "name no patient" not in results(folder)[1]


def test_the_start_of_training_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class StartedError(Exception):
        pass

    def start(*_: object, **__: object) -> None:
        raise StartedError

    monkeypatch.setattr(train, "run_ranks", start)
    with pytest.raises(StartedError):
        train.train(run_of(make_dataset(tmp_path / "dataset", nameless=120)))
    assert SAID in " ".join(capsys.readouterr().out.split())


def test_systems_that_are_compared_on_nobody_knows_whom_have_no_interval(tmp_path: Path) -> None:
    run = run_of(make_dataset(tmp_path / "dataset", nameless=120))
    prepared = prepare(run)
    valid = prepared.split.valid
    answered(run, prepared, valid, np.random.default_rng(0).normal(size=(len(valid), 6)))
    systems, _ = gather([run], prepared, classical=False, replicates=100)
    assert all(np.isnan(system.estimate("weighted_log_loss").low) for system in systems)


@pytest.mark.parametrize(("nameless", "known"), [(0, True), (1, True), (2, False), (120, False)])
def test_patients_are_known_where_at_most_one_slice_of_a_hundred_is_nameless(
    tmp_path: Path, nameless: int, known: bool
) -> None:
    dataset = DataSet.open(str(make_dataset(tmp_path / "dataset", nameless=nameless)))
    rows = np.arange(120)
    assert dataset.nameless(rows) == nameless
    assert dataset.knows_patients(rows) == known
    assert (len(np.unique(dataset.resampled_groups(rows))) > 1) == known
    assert pq.read_table(tmp_path / "dataset" / "index.parquet").column("patient").null_count == nameless
