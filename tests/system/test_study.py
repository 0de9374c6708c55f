"""A whole study, small: trained, killed, gone on with, compared and reported."""

from __future__ import annotations

import html
import json
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hemodist.config.data import DataConfig
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.dataset.labels import LABELS
from hemodist.errors import UserError
from hemodist.metrics.log_loss import weighted_log_loss
from hemodist.study.options import Study
from hemodist.study.study import conduct
from tests.support.dataset import make_dataset
from tests.support.forks import fork
from tests.support.processes import CHECKOUT, alive, in_session, start, wait_for

RECIPES, SEEDS = ("resnet18", "resnet34"), (0, 1)


def command(folder: Path, *more: object) -> list[object]:
    """A study of two networks from two seeds."""
    flags = [
        "--recipes",
        *RECIPES,
        "--seeds",
        *SEEDS,
        "--epochs",
        1,
        "--image-size",
        32,
        "--global-batch-size",
        32,
        "--weights",
        "none",
    ]
    where = ["--data.dataset", folder / "dataset", "--output", folder / "study", "--tracking.mode", "disabled"]
    return [CHECKOUT / "jobs/study.py", *flags, *where, "--replicates", 200, "--scaling.workers", 0, *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What a study leaves that was stopped half-way, as a scheduler stops a job, and started again."""
    folder = tmp_path_factory.mktemp("study")
    make_dataset(folder / "dataset", samples=160, patients=30)
    process = fork(command(folder), folder, folder / "log1")
    wait_for("finished (2 of 4)", folder / "log1", process)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert in_session(process.pid) == []
    process = fork(command(folder), folder, folder / "log2")
    assert process.wait() == 0, (folder / "log2").read_text()
    assert in_session(process.pid) == []
    return folder


@pytest.fixture(scope="module")
def found(folder) -> dict:
    return json.loads((folder / "study/study.json").read_text())


def test_a_study_that_was_stopped_goes_on_and_finished_runs_are_not_run_again(folder):
    first, second = (folder / "log1").read_text(), (folder / "log2").read_text()
    finished = {line.split()[0] for line in first.splitlines() if "finished (" in line}
    again = {line.split()[0] for line in second.splitlines() if "finished (" in line}
    runs = {f"{recipe}-s{seed}" for recipe in RECIPES for seed in SEEDS}
    assert len(finished) >= 2
    assert again == runs - finished
    assert f"4, of which {len(finished)} are finished" in second


def test_the_table_holds_networks_and_the_classical_floor_on_the_same_slices(found):
    assert [system["name"] for system in found["systems"]] == [
        "constant prevalence", "threshold", "naive Bayes", "k-means", *RECIPES,
    ]  # fmt: skip
    for system in found["systems"][-2:]:
        assert system["seeds"] == list(SEEDS)
        assert [len(history) for history in system["histories"]] == [1, 1]


def test_scores_are_those_of_the_runs_own_predictions(folder, found):
    for system in found["systems"][-2:]:
        for seed, reported in zip(SEEDS, system["scores"]["weighted_log_loss"]["by_seed"], strict=True):
            table = pq.read_table(folder / f"study/runs/{system['name']}-s{seed}/predictions.parquet")
            probability = np.stack([table[name].to_numpy() for name in LABELS], axis=1)
            labels = np.stack([table[f"label_{name}"].to_numpy() for name in LABELS], axis=1)
            assert weighted_log_loss(probability, labels) == pytest.approx(reported, rel=1e-9)


def test_the_terminal_and_the_page_show_table_and_answers(folder, found):
    log, page = (folder / "log2").read_text(), html.unescape((folder / "study/study.html").read_text())
    for text in ("resnet34", "k-means", "Which system is worth its time?", "study.html"):
        assert text in log
    for question, answer in found["questions"].items():
        assert question in page
        assert answer in page
    assert len(page) < 5_000_000
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (folder / "study/study.md").read_text().startswith("| system |")


def test_a_run_that_fails_is_named_and_stops_no_other(folder):
    """The run is trained, but its predictions cannot be written."""
    run = folder / "study/runs/resnet18-s0"
    for name in ("result.json", "predictions.parquet"):
        (run / name).unlink()
    (run / "predictions.parquet").mkdir()
    (folder / "study/runs/resnet34-s1/result.json").unlink()
    study = Study(
        recipes=RECIPES, seeds=SEEDS, epochs=1, image_size=32, global_batch_size=32, weights="none",
        output=str(folder / "study"), data=DataConfig(dataset=str(folder / "dataset")),
        scaling=ScalingConfig(workers=0), replicates=200,
        tracking=TrackingConfig(mode="disabled"), classical=False,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"1 of 4 runs failed .* resnet18-s0: cannot write"):
        conduct(study)
    found = json.loads((folder / "study/study.json").read_text())
    assert list(found["failed"]) == ["resnet18-s0"]
    assert [system["seeds"] for system in found["systems"][-2:]] == [[1], [0, 1]]
    assert "resnet18-s0" in (folder / "study/study.html").read_text()


@pytest.mark.faults
def test_two_runs_at_a_time_on_a_cluster_stop_together_and_go_on(tmp_path):
    make_dataset(tmp_path / "dataset", samples=160, patients=30)
    two = ["--seeds", 0, "--scaling.workers", 1, "--at-once", 2]
    process, mark = start(command(tmp_path, *two, "--epochs", 40), tmp_path, tmp_path / "log1")
    for recipe in RECIPES:
        # The row of its third epoch: by then the checkpoint of an earlier one is whole.
        wait_for(f"{recipe}-s0         3  ", tmp_path / "log1", process)
    assert "2 runs to train, up to 2 at a time" in (tmp_path / "log1").read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert alive(mark) == []
    process, mark = start(command(tmp_path, *two, "--epochs", 40), tmp_path, tmp_path / "log2")
    assert process.wait() == 0, (tmp_path / "log2").read_text()
    assert alive(mark) == []
    log = (tmp_path / "log2").read_text()
    assert log.count("going on at step") == 2
    assert "finished (2 of 2)" in log
