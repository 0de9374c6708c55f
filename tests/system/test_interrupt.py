"""Stopped at any time, no process stays behind, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hemodist.job import EXIT_INTERRUPTED
from hemodist.models.checkpoints import open_checkpoint
from tests.support.dataset import make_dataset
from tests.support.forks import Forked, fork
from tests.support.processes import CHECKOUT, alive, in_session, interrupt, start, wait_for


def command(folder: Path, *more: object) -> list[object]:
    """A small training run on two workers."""
    flags = ["--output", folder / "runs", "--model.name", "shufflenet_v2_x0_5", "--model.image-size", 32]
    return [CHECKOUT / "jobs/train.py", "demo", "--data.dataset", folder / "dataset", *flags, *more]


@pytest.fixture
def folder(tmp_path) -> Path:
    make_dataset(tmp_path / "dataset")
    return tmp_path


def test_ctrl_c_while_training_leaves_no_process(folder):
    log = folder / "log"
    process, mark = start(command(folder, "--optim.epochs", 400), folder, log)
    wait_for("train_loss  valid_loss", log, process)  # the table of epochs, shown with its first row
    while not list(folder.rglob("step-*.json")):  # the epoch's checkpoint is written behind the row
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    assert len(alive(mark)) > 3
    assert interrupt(process) == EXIT_INTERRUPTED
    assert alive(mark) == []
    assert "the same command goes on" in log.read_text()


def test_ctrl_c_while_importing_leaves_no_process(folder):
    process, mark = start(command(folder), folder, folder / "log")
    time.sleep(1.5)
    assert interrupt(process) != 0
    assert alive(mark) == []


def test_sigterm_to_the_driver_alone_while_ray_starts_leaves_no_process(folder):
    process, mark = start(command(folder), folder, folder / "log")
    while not any("raylet" in line for line in alive(mark)):
        assert process.poll() is None, (folder / "log").read_text()
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)  # as a scheduler stops a job
    assert process.wait() != 0
    assert alive(mark) == []


@pytest.mark.faults
def test_after_ctrl_c_and_sigterm_on_two_workers_the_run_goes_on(folder):
    long, log = command(folder, "--optim.epochs", 400, "--checkpoint.every-steps", 2), folder / "log"
    process, mark = start(long, folder, log)
    wait_for("train_loss  valid_loss", log, process)
    assert interrupt(process) == EXIT_INTERRUPTED
    process, mark = start(long, folder, log)
    wait_for("going on at step", log, process)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    assert alive(mark) == []


@pytest.mark.faults
def test_ctrl_c_at_twenty_random_moments_leaves_no_process(folder):
    for seconds in np.random.default_rng(0).uniform(0, 40, 20):
        process, mark = start(command(folder, "--optim.epochs", 400), folder, folder / "log")
        time.sleep(seconds)
        interrupt(process)
        assert alive(mark) == [], f"after {seconds:.1f} s"


Begin = Callable[[list[object], Path, Path], "subprocess.Popen[bytes] | Forked"]
"""Starts a command as the leader of a session: (words, folder, log)."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def test_ctrl_c_sigterm_and_sigkill_at_random_steps_leave_the_undisturbed_weights(folder):
    assert_interrupts_leave_no_trace(folder, fork, moments=3, epochs=8, while_starting=False)


@pytest.mark.faults
@pytest.mark.timeout(3000)
def test_ctrl_c_sigterm_and_sigkill_at_twenty_random_moments_leave_the_undisturbed_weights(folder):
    begin: Begin = lambda *given: start(*given)[0]  # noqa: E731
    assert_interrupts_leave_no_trace(folder, begin, moments=20, epochs=60, while_starting=True)


def assert_interrupts_leave_no_trace(
    folder: Path, begin: Begin, *, moments: int, epochs: int, while_starting: bool
) -> None:
    """The same command, stopped at random moments and started again, ends with the weights of one left alone.

    Args:
        folder: with a data set.
        begin: how the command is started.
        moments: at which it is stopped; each by another signal.
        epochs: of the run; too many for it to end before the last moment.
        while_starting: every third moment is drawn over the time from the start on, not from a new checkpoint on.
    """
    flags = {
        "data.dataset": folder / "dataset", "output": folder / "runs", "data.decode-threads": 1,
        "model.name": "shufflenet_v2_x0_5", "model.image-size": 32, "batch.global-batch-size": 8,
        "batch.mix-group": 2, "optim.epochs": epochs, "checkpoint.every-steps": 2, "scaling.workers": 0,
        "scaling.device": "cpu", "tracking.mode": "disabled",
    }  # fmt: skip
    given = [word for name, value in flags.items() for word in (f"--{name}", value)]
    given, log, rng = [CHECKOUT / "jobs/train.py", "demo", *given], folder / "log", np.random.default_rng(5)
    for number in range(moments):
        chosen = SIGNALS[number % len(SIGNALS)]
        process = begin([*given, "--name", "disturbed"], folder, log)
        if while_starting and rng.random() < 1 / 3:
            time.sleep(rng.uniform(0, 12))
        else:
            wait_for_another_checkpoint(folder / "runs/disturbed/checkpoints", process, log)
            time.sleep(rng.uniform(0, 0.3 if while_starting else 0.1))
        assert process.poll() is None, f"it ended before moment {number}; use more epochs:\n{log.read_text()}"
        os.kill(process.pid, chosen)
        assert process.wait() != 0
        assert in_session(process.pid) == [], f"after {chosen.name}, moment {number}"
    for name in ("disturbed", "undisturbed"):
        process = begin([*given, "--name", name], folder, log)
        assert process.wait() == 0, log.read_text()
        assert ("going on at step" in log.read_text()) == (name == "disturbed")
        assert in_session(process.pid) == []
    disturbed, undisturbed = (open_checkpoint(str(folder / "runs" / name)) for name in ("disturbed", "undisturbed"))
    assert disturbed["state"]["step"] == undisturbed["state"]["step"]
    for part in ("model", "ema"):
        for key, value in undisturbed[part].items():
            assert torch.equal(disturbed[part][key], value), f"{part} {key}"


def wait_for_another_checkpoint(folder: Path, process: subprocess.Popen[bytes] | Forked, log: Path) -> None:
    """Wait until there is a checkpoint that was not there before."""
    before = set(folder.glob("*.json"))
    while not set(folder.glob("*.json")) - before:
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
