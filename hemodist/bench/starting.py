"""How long it takes from the command to the first optimizer step, on one machine without Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from hemodist.bench.peers.first_step import DONE
from hemodist.bench.rounds import Lap, Rate, measure
from hemodist.errors import UserError

WAYS = ("hemodist", "limit")


def run(dataset: Path, work: Path, rounds: int) -> list[Rate]:
    """Start both ways in turn; the rates are starts a second.

    Args:
        dataset: a data set with labels.
        work: folder for what the runs write.
        rounds: that count; one before them fills the page cache.
    """
    count = iter(range(10**6))

    def lap(way: str) -> Lap:
        return _lap(dataset, work / f"run{next(count)}", way)

    laps = measure({way: partial(lap, way) for way in WAYS}, rounds)
    return [Rate(way, laps[way], {}) for way in WAYS]


def _lap(dataset: Path, output: Path, way: str) -> Lap:
    command = [sys.executable, "-m", "hemodist.bench.peers.first_step", str(dataset), str(output), way]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    before, start = os.times(), time.perf_counter()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - start, os.times()
    if DONE not in ended.stdout:
        last = ended.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise UserError(f"no first step was made ({way}); the last that was written is: {last[0]}")
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return Lap(1 / seconds, 1000 * cpu)
