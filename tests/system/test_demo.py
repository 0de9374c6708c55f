"""The whole path, as a newcomer runs it: DICOM in, a trained, scored and reported model out, all for real."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import log_loss

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.models.checkpoints import open_checkpoint
from jobs import demo as demo_job
from tests.support.processes import CHECKOUT, alive, start

SLICES, SEED = 167, 18  # the smallest set whose held-out patients show a hemorrhage


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Iterator[Path]:
    """What `jobs/demo.py` leaves for a small data set."""
    folder = tmp_path_factory.mktemp("demo")
    process, mark = start(
        [CHECKOUT / "jobs/demo.py", "--output", folder / "demo", "--slices", SLICES, "--seed", SEED],
        folder,
        folder / "log",
    )
    code = process.wait()
    assert code == 0, (folder / "log").read_text()
    assert alive(mark) == []
    yield folder
    shutil.rmtree(folder)


def test_the_demo_leaves_a_sound_data_set(demo):
    assert "sound" in (demo / "log").read_text()
    manifest = DataSet.open(str(demo / "demo/dataset")).manifest
    assert manifest.samples + sum(manifest.rejected.values()) == manifest.source_files == SLICES
    assert manifest.config["synthetic"]
    assert set(manifest.series) == {"series"}  # none of them odd


def test_the_terminal_shows_the_studys_table_and_the_trivial_answers(demo):
    log = (demo / "log").read_text()
    for text in ("epoch  train_loss  valid_loss  accuracy_multi      time", "constant prevalence", "predict none",
                 "brain-window threshold", "report.html", "$ python"):  # fmt: skip
        assert text in log


def test_the_report_has_curves_and_says_that_it_is_synthetic(demo):
    page = (demo / "demo/runs/demo/report.html").read_text()
    assert "data:image/svg+xml;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "synthetic" in page.lower()
    assert len(page) < 5_000_000


def test_there_is_a_checkpoint_and_an_offline_wandb_run(demo):
    saved = open_checkpoint(str(demo / "demo/runs/demo"))
    assert saved["run"]["name"] == "demo"
    assert len(saved["state"]["history"]) >= 1
    assert list((demo / "demo/runs/demo/wandb").glob("offline-run-*/run-*.wandb"))


def test_evaluating_the_checkpoint_gives_the_scores_of_the_run(demo):
    run = json.loads((demo / "demo/runs/demo/metrics.json").read_text())
    again = json.loads((demo / "demo/runs/demo/evaluation/metrics.json").read_text())
    # The run scored on two ranks, the evaluation on one: other batches, so other rounding.
    assert again["weighted_log_loss"]["value"] == pytest.approx(run["weighted_log_loss"]["value"], abs=1e-4)
    assert again["slices"] == run["slices"]


def test_the_predictions_give_the_reported_score(demo):
    table = pq.read_table(demo / "demo/runs/demo/predictions.parquet")
    weights = np.array([2.0, 1, 1, 1, 1, 1]) / 7
    reported = json.loads((demo / "demo/runs/demo/metrics.json").read_text())
    losses = [label["log_loss"]["value"] for label in reported["labels"]]
    assert float(np.dot(weights, losses)) == pytest.approx(reported["weighted_log_loss"]["value"], abs=1e-6)
    learned = [number for number, name in enumerate(LABELS) if not table[name].null_count]
    assert LABELS.index("any") in learned
    for number in learned:  # so few slices may hold no positive of a label to train on; its predictions are blank
        truth, answered = (table[name].to_numpy() for name in (f"label_{LABELS[number]}", LABELS[number]))
        assert log_loss(truth, answered, labels=[0, 1]) == pytest.approx(losses[number], abs=1e-6)


@pytest.mark.parametrize(("gpus", "workers"), [(0, "2"), (1, "1"), (8, "2")])
def test_the_demo_asks_for_no_more_workers_than_there_are_gpus(gpus, workers, monkeypatch, tmp_path):
    asked = []

    def note(command, check):
        asked.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr(demo_job.subprocess, "run", note)
    assert demo_job.main(tmp_path) == 0
    (train,) = [command for command in asked if "--scaling.workers" in command]
    assert train[train.index("--scaling.workers") + 1] == workers
