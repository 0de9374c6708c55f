"""A training worker that is killed costs nothing but time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch

from hemodist.checkpoint import open_checkpoint
from tests.dataset import make_dataset
from tests.jobs.processes import CHECKOUT, MARK, alive, start, wait_for


def kill_a_worker(mark: str) -> None:
    """SIGKILL one of the run's training workers."""
    for process in psutil.process_iter():
        try:
            if "ray::RayTrainWorker" in " ".join(process.cmdline()) and process.environ().get(MARK) == mark:
                os.kill(process.pid, signal.SIGKILL)
                return
        except psutil.Error:
            continue
    pytest.fail("no training worker is running")


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_killed_workers_are_replaced_and_the_final_weights_are_those_of_the_undisturbed_run(tmp_path: Path):
    make_dataset(tmp_path / "dataset")
    flags = ["--data.dataset", tmp_path / "dataset", "--output", tmp_path / "runs", "--model.image-size", 32,
             "--checkpoint.every-steps", 2, "--optim.epochs", 40, "--scaling.max-failures", 3]  # fmt: skip
    for name, kills in (("undisturbed", ()), ("killed", (" 3  ", "going on at step", "going on at step"))):
        log = tmp_path / f"{name}.log"
        process, mark = start([CHECKOUT / "jobs/train.py", "demo", "--name", name, *flags], tmp_path, log)
        for number, text in enumerate(kills):
            wait_for_count(text, max(number, 1), log, process)
            kill_a_worker(mark)
        assert process.wait(timeout=300) == 0, log.read_text()
        assert alive(mark) == []
    expected, found = (open_checkpoint(str(tmp_path / "runs" / name)) for name in ("undisturbed", "killed"))
    assert found["state"]["step"] == expected["state"]["step"]
    for key, value in expected["model"].items():
        assert torch.equal(found["model"][key], value), key
    for row, other in zip(found["state"]["history"], expected["state"]["history"], strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], abs=1e-6)
        assert row["valid_loss"] == other["valid_loss"]


def wait_for_count(text: str, count: int, log: Path, process) -> None:
    """Wait until a text stands in the log so many times."""
    while log.read_text(errors="replace").count(text) < count:
        wait_for(text, log, process, 240)
        time.sleep(0.1)
        if process.poll() is not None:
            pytest.fail(log.read_text())
