"""The driver is killed and started again: no process stays, no step is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hemodist.config.run import Run
from hemodist.models.checkpoints import open_checkpoint
from tests.support.dataset import make_dataset
from tests.support.fault_runs import assert_no_step_is_lost_or_repeated, assert_same_outcome, newest_step, train_until
from tests.support.processes import CHECKOUT, alive, start
from tests.support.ranks import run_ranks


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_driver_that_is_killed_leaves_no_process_and_the_same_command_goes_on(tmp_path):
    make_dataset(tmp_path / "dataset", samples=490, patients=98, per_shard=100)
    flags: dict[str, object] = {
        "data.dataset": tmp_path / "dataset",
        "data.decode-threads": 1,
        "output": tmp_path / "runs",
        "model.name": "shufflenet_v2_x0_5",
        "model.image-size": 32,
        "optim.epochs": 8,
        "scaling.device": "cpu",
        "checkpoint.every-steps": 5,
        "tracking.mode": "disabled",
    }
    given = [word for name, value in flags.items() for word in (f"--{name}", value)]
    command = [CHECKOUT / "jobs/train.py", "demo", *given, "--tracking.ledger"]
    for attempt in range(3):
        log = tmp_path / f"{attempt}.log"
        process, mark = start(command, tmp_path, log)
        if attempt < 2:
            wait_for_checkpoint(tmp_path / "runs/demo/checkpoints", process, log)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            deadline = time.monotonic() + 60
            while alive(mark) and time.monotonic() < deadline:
                time.sleep(0.2)
        else:
            assert process.wait(timeout=600) == 0, log.read_text()
            assert "going on at step" in log.read_text()
        assert alive(mark) == []
    run = Run.from_dict(open_checkpoint(str(tmp_path / "runs/demo"))["run"])
    undisturbed = replace(run, name="undisturbed")
    run_ranks(train_until, 2, undisturbed)
    assert_no_step_is_lost_or_repeated(run, newest_step(run))
    assert_same_outcome(run, undisturbed)


def wait_for_checkpoint(folder: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the run has written a checkpoint that was not there before."""
    before = set(folder.glob("*.json"))
    deadline = time.monotonic() + 300
    while not set(folder.glob("*.json")) - before:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
