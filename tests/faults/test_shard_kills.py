"""The sharder is killed at random moments; what it ends with is what an undisturbed run writes."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from hemodist.storage import local_files
from shards.building import build, unfinished
from shards.building.options import ShardConfig
from tests.support.dicom_files import KEY, content_of, write_source

SLICES = 400
WINDOW = 1.0
"""Seconds after the first write within which a run is killed: about what the whole run takes."""


def shard(source: str, output: str) -> None:
    """In a process of its own: go on where the last one was killed."""
    os.environ[unfinished.KEY_VARIABLE] = KEY
    todo = build.plan(ShardConfig(source, output, samples_per_shard=16, size=48))
    if isinstance(todo, build.BuildPlan):
        build.run(todo)


def shard_slowly(source: str, output: str) -> None:
    """The same, but each file waits under its other name, so that kills come there too."""
    put_in_place = local_files.put_in_place

    def later(partial: Path, path: Path) -> None:
        time.sleep(0.005)
        put_in_place(partial, path)

    local_files.put_in_place = later
    shard(source, output)


def killed(source: Path, output: Path, delay: float) -> bool:
    """Start a run, kill it `delay` seconds after it has begun to write; whether it was still at work."""
    process = multiprocessing.get_context("spawn").Process(target=shard_slowly, args=(str(source), str(output)))
    begun = (output / "build.json").stat().st_mtime_ns if (output / "build.json").exists() else 0
    process.start()
    try:
        while process.is_alive() and not (output / "manifest.json").exists():
            if (output / "build.json").exists() and (output / "build.json").stat().st_mtime_ns > begun:
                break
            time.sleep(0.002)
        process.join(delay)
        alive = process.is_alive()
        if alive:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        return alive
    finally:
        process.join()


def kill_and_compare(tmp_path: Path, kills: int, seed: int) -> None:
    source = write_source(tmp_path / "data", SLICES, side=48, broken=3)
    shard(str(source), str(tmp_path / "undisturbed"))
    expected = content_of(tmp_path / "undisturbed")
    draw = random.Random(seed)
    output, done, round_ = tmp_path / "out_0", 0, 0
    while done < kills:
        if killed(source, output, draw.uniform(0, WINDOW / 4)):
            done += 1
        if (output / "manifest.json").exists():
            shard(str(source), str(output))  # clears what the kill has left
            assert content_of(output) == expected
            round_ += 1
            output = tmp_path / f"out_{round_}"
    shard(str(source), str(output))
    assert content_of(output) == expected


def test_five_kills_leave_no_trace(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, kills=5, seed=0)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_fifty_kills_leave_no_trace(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, kills=50, seed=1)
