"""Stopped at any time, no process stays behind, and the same command goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from hemodist.terminal import EXIT_INTERRUPTED
from tests.dataset import make_dataset
from tests.jobs.processes import CHECKOUT, alive, interrupt, start, wait_for

MINUTES = 240


def command(folder: Path, *more: object) -> list[object]:
    """A small training run on two workers."""
    flags = ["--output", folder / "runs", "--model.image-size", 32, "--checkpoint.every-steps", 2]
    return [CHECKOUT / "jobs/train.py", "demo", "--data.dataset", folder / "dataset", *flags, *more]


@pytest.fixture
def folder(tmp_path) -> Path:
    make_dataset(tmp_path / "dataset")
    return tmp_path


def test_ctrl_c_while_training_leaves_no_process_and_the_run_goes_on(folder):
    long, log = ["--optim.epochs", 400], folder / "log"
    process, mark = start(command(folder, *long), folder, log)
    wait_for("train_loss  valid_loss", log, process, MINUTES)  # the table of epochs, shown with its first row
    assert len(alive(mark)) > 3
    assert interrupt(process) == EXIT_INTERRUPTED
    assert alive(mark) == []
    assert "the same command goes on" in log.read_text()
    process, mark = start(command(folder, *long), folder, log)
    wait_for("going on at step", log, process, MINUTES)
    os.kill(process.pid, signal.SIGTERM)  # as a scheduler stops a job, and to the driver alone
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert alive(mark) == []


@pytest.mark.parametrize("seconds", [1.5, 7.0])
def test_ctrl_c_while_starting_leaves_no_process(folder, seconds):
    process, mark = start(command(folder), folder, folder / "log")
    time.sleep(seconds)
    assert interrupt(process) != 0
    assert alive(mark) == []


@pytest.mark.faults
def test_ctrl_c_at_twenty_random_moments_leaves_no_process(folder):
    for seconds in np.random.default_rng(0).uniform(0, 40, 20):
        process, mark = start(command(folder, "--optim.epochs", 400), folder, folder / "log")
        time.sleep(seconds)
        interrupt(process)
        assert alive(mark) == [], f"after {seconds:.1f} s"
