"""The wait for the other ranks' gradients, as a part of a step's time."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from hemodist.config.run import Run
from hemodist.training.loop import Training
from hemodist.world import World
from tests.hemodist.training.test_loop import run_of, silent
from tests.support.dataset import make_dataset
from tests.support.ranks import run_ranks

LATE = 0.2
"""Seconds that rank 1 lets pass between the end of rank 0's backward pass and its own."""


def with_a_late_rank(world: World, run: Run, mark: Path) -> tuple[float, float]:
    """Seconds that this rank has waited in a step for the other, and the share of its time that the log says."""
    told: list = []
    training = Training(replace(run, tracking=replace(run.tracking, log_every=1)), world, told.append)
    parameter = next(training.learner.network.parameters())
    if world.is_rank_0:
        parameter.register_post_accumulate_grad_hook(lambda _: mark.touch())
    else:
        training.learner.network.register_forward_hook(lambda *_: after(mark))
    batches = training.batches()
    waited = training.update(next(batches)).exchange.seconds()
    batches.close()
    training.catch_up()
    return waited, told[-1].communication_share


def after(mark: Path) -> None:
    while not mark.exists():
        time.sleep(0.005)
    time.sleep(LATE)


def test_a_rank_says_how_long_it_has_waited_for_a_slower_one(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", samples=100)
    (fast, share), _ = run_ranks(with_a_late_rank, 2, run_of(tmp_path), tmp_path / "mark")
    assert fast >= LATE
    assert 0 < share < 1


def test_one_rank_waits_for_nobody(tmp_path: Path) -> None:
    make_dataset(tmp_path / "data", samples=100)
    training = Training(run_of(tmp_path), World.alone(), silent)
    batches = training.batches()
    assert training.update(next(batches)).exchange.seconds() == 0
    batches.close()
