"""Ray's workers are killed while they shard; the job goes on, ends with 0, and its bytes are the undisturbed ones."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psutil
import pytest

from shards.building import build, unfinished
from shards.building.options import ShardConfig
from tests.support.dicom_files import KEY, content_of, write_source
from tests.support.processes import CHECKOUT, MARK, start

PER_SHARD = 8
RETRIES = 5
"""Lost workers after which a task is still run again: at most so many kills a run, since they may all meet one task."""


def workers(mark: str) -> list[psutil.Process]:
    """The processes that run a task of the job right now; Ray names them after the function."""
    found = []
    for process in psutil.process_iter():
        try:
            title = process.cmdline()
            if title and title[0].startswith("ray::run_task") and process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slices: int, kills: int, seed: int) -> None:
    monkeypatch.setenv(unfinished.KEY_VARIABLE, KEY)
    source = write_source(tmp_path / "data", slices, side=256, broken=2)
    todo = build.plan(ShardConfig(str(source), str(tmp_path / "whole"), samples_per_shard=PER_SHARD, size=256))
    assert isinstance(todo, build.BuildPlan)
    build.run(todo)
    expected = content_of(tmp_path / "whole")
    draw, done, round_ = random.Random(seed), 0, 0
    while done < kills:
        output, in_run = tmp_path / f"out_{round_}", 0
        flags = ["--samples-per-shard", PER_SHARD, "--size", 256, "--workers", 2, "--source", source]
        process, mark = start([CHECKOUT / "jobs" / "shard.py", *flags, "--output", output], tmp_path, tmp_path / "log")
        try:
            while process.poll() is None:
                found = workers(mark)
                if found and done < kills and in_run < RETRIES:
                    draw.choice(found).kill()
                    done, in_run = done + 1, in_run + 1
                time.sleep(draw.uniform(0, 0.4))
        finally:
            process.kill()
        assert process.wait() == 0, (tmp_path / "log").read_text()
        assert content_of(output) == expected
        round_ += 1


@pytest.mark.timeout(120)
def test_three_killed_ray_workers_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_workers(tmp_path, monkeypatch, slices=600, kills=3, seed=0)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_fifty_killed_ray_workers_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_workers(tmp_path, monkeypatch, slices=1200, kills=50, seed=1)
