"""Stopped at any time, no process stays behind, and the same command goes on."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from hemodist.job import EXIT_INTERRUPTED
from hemodist.models.checkpoints import open_checkpoint
from tests.support.dataset import make_dataset
from tests.support.processes import CHECKOUT, alive, interrupt, start, wait_for

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


Begin = Callable[[list[str], Path, Path], "Started"]
"""Starts a command of `jobs/train.py` as the leader of a session: (flags, folder, log)."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def test_ctrl_c_sigterm_and_sigkill_at_random_steps_leave_the_undisturbed_weights(folder):
    assert_interrupts_leave_no_trace(folder, forked, moments=3, epochs=12, while_starting=False)


@pytest.mark.faults
@pytest.mark.timeout(3000)
def test_ctrl_c_sigterm_and_sigkill_at_twenty_random_moments_leave_the_undisturbed_weights(folder):
    assert_interrupts_leave_no_trace(folder, spawned, moments=20, epochs=60, while_starting=True)


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
    given = ["demo", *(str(word) for name, value in flags.items() for word in (f"--{name}", value))]
    log, rng = folder / "log", np.random.default_rng(5)
    for number in range(moments):
        chosen = SIGNALS[number % len(SIGNALS)]
        with begun(begin, [*given, "--name", "disturbed"], folder, log) as process:
            if while_starting and rng.random() < 1 / 3:
                time.sleep(rng.uniform(0, 12))
            else:
                wait_for_another_checkpoint(folder / "runs/disturbed/checkpoints", process, log)
                time.sleep(rng.uniform(0, 0.3))
            assert process.code() is None, f"it ended before moment {number}; use more epochs:\n{log.read_text()}"
            os.kill(process.pid, chosen)
            assert process.ended(60) != 0
            assert process.left_behind() == [], f"after {chosen.name}, moment {number}"
    for name in ("disturbed", "undisturbed"):
        with begun(begin, [*given, "--name", name], folder, log) as process:
            assert process.ended(900) == 0, log.read_text()
            assert ("going on at step" in log.read_text()) == (name == "disturbed")
            assert process.left_behind() == []
    disturbed, undisturbed = (open_checkpoint(str(folder / "runs" / name)) for name in ("disturbed", "undisturbed"))
    assert disturbed["state"]["step"] == undisturbed["state"]["step"]
    for part in ("model", "ema"):
        for key, value in undisturbed[part].items():
            assert torch.equal(disturbed[part][key], value), f"{part} {key}"


@dataclass(frozen=True)
class Started:
    """A process that leads a session of its own.

    Attributes:
        pid: its id, and that of its session.
        code: its exit code, or None while it runs.
    """

    pid: int
    code: Callable[[], int | None]

    def ended(self, seconds: float) -> int | None:
        """Its exit code once it has ended; fails after so many seconds."""
        deadline = time.monotonic() + seconds
        while self.code() is None:
            assert time.monotonic() < deadline, f"still running after {seconds:g} s"
            time.sleep(0.02)
        return self.code()

    def left_behind(self) -> list[str]:
        """Command lines of what still runs in its session."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline())[:200])
        return found


@contextlib.contextmanager
def begun(begin: Begin, flags: list[str], folder: Path, log: Path) -> Iterator[Started]:
    """A command that is killed when the test is done with it, so that a failure leaves nothing running."""
    process = begin(flags, folder, log)
    try:
        yield process
    finally:
        if process.code() is None:
            os.kill(process.pid, signal.SIGKILL)


def spawned(flags: list[str], folder: Path, log: Path) -> Started:
    """The very command."""
    process, _ = start([CHECKOUT / "jobs/train.py", *flags], folder, log)
    return Started(process.pid, process.poll)


def forked(flags: list[str], folder: Path, log: Path) -> Started:
    """The command in a process that was forked with the library imported, which saves seconds."""
    log.write_bytes(b"")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["hemodist.launch.train"])
    process = context.Process(target=_command, args=(flags, log))
    process.start()
    assert process.pid is not None
    return Started(process.pid, lambda: process.exitcode)


def wait_for_another_checkpoint(folder: Path, process: Started, log: Path) -> None:
    """Wait until there is a checkpoint that was not there before."""
    before = set(folder.glob("*.json"))
    deadline = time.monotonic() + MINUTES
    while not set(folder.glob("*.json")) - before:
        assert process.code() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def _command(flags: list[str], log: Path) -> None:
    os.setsid()
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    sys.argv = [str(CHECKOUT / "jobs/train.py"), *flags]
    runpy.run_path(sys.argv[0], run_name="__main__")
