"""Other numbers of ranks, damaged checkpoints and early leaving change nothing about what is read. Without Ray."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from hemodist.config.run import Run
from hemodist.events import Note
from hemodist.storage.store import Store
from hemodist.training.leave_poll import POLL_SECONDS, LeavePoll
from hemodist.training.loop import Training
from hemodist.training.sample_ledger import read_ledger
from hemodist.world import World
from tests.support.fault_runs import (
    assert_no_step_is_lost_or_repeated,
    assert_same_outcome,
    newest_step,
    small_run,
    train_until,
)
from tests.support.ranks import run_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("elastic")


def test_two_ranks_then_one_then_two_read_the_same_sequence_of_global_batches(folder):
    run = small_run(folder, "elastic", epochs=1)
    first = run_ranks(train_until, 2, run, 4)
    second = run_ranks(train_until, 1, run, 4)
    third = run_ranks(train_until, 2, run)
    assert first[0] == first[1] < second[0] < third[0] == third[1] == newest_step(run)
    assert_no_step_is_lost_or_repeated(run, third[0])


@pytest.fixture(scope="module")
def undisturbed(folder) -> Run:
    run = small_run(folder, "undisturbed", epochs=1)
    train_until(World.alone(), run)
    return run


def test_ranks_that_leave_on_notice_save_the_very_step_and_end_with_the_undisturbed_weights(folder, undisturbed):
    run = replace(undisturbed, name="leaving")
    for questions in (1, 3):
        step = train_until(World.alone(), run, questions)
        assert newest_step(run) == step
    train_until(World.alone(), run)
    assert_no_step_is_lost_or_repeated(run, newest_step(run))
    assert_same_outcome(run, undisturbed)


def test_damaged_newest_checkpoints_are_named_and_their_steps_made_again(folder, undisturbed):
    run = replace(undisturbed, name="damaged")
    for damage in (cut_short, flip_a_bit, lose_the_record):
        step = train_until(World.alone(), run, 3)
        newest = Path(run.output, run.name, "checkpoints", f"step-{step:08d}.pt")
        damage(newest)
        events: list = []
        training = Training(run, World.alone(), events.append)
        assert training.step < step
        notes = [event.text for event in events if isinstance(event, Note)]
        named = any("damaged" in note and newest.name in note for note in notes)
        assert named == (damage is not lose_the_record), damage.__name__
    train_until(World.alone(), run)
    assert_no_step_is_lost_or_repeated(run, newest_step(run))
    assert_same_outcome(run, undisturbed)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose_the_record(file: Path) -> None:
    file.with_suffix(".json").unlink()


def test_a_ledger_holds_committed_steps_only(folder, undisturbed):
    run = replace(undisturbed, name="ledger")
    step = train_until(World.alone(), run, 3)
    store = Store.open(f"{run.output}/{run.name}")
    assert [line["step"] for line in read_ledger(store, step)] == list(range(step))
    assert read_ledger(store, step - 1) == read_ledger(store, step)[: len(read_ledger(store, step - 1))]
    unledgered = replace(run, name="unledgered", tracking=replace(run.tracking, ledger=False))
    train_until(World.alone(), unledgered, 1)
    assert not Path(run.output, "unledgered", "ledger").exists()


def test_ranks_ask_whether_to_leave_every_few_seconds_and_not_at_every_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("hemodist.training.leave_poll.time.monotonic", lambda: now[0])
    asked: list[float] = []

    def must_leave() -> bool:
        asked.append(now[0])
        return False

    world = replace(World.alone(), must_leave=must_leave)
    poll = LeavePoll(world, 0)
    for step in range(1, 10_001):
        now[0] += 0.01 if step < 5_000 else 0.5  # steps that get slow all at once
        poll.must_leave(step)
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    fast = [gap for gap, when in zip(gaps, asked, strict=False) if 10 < when < 40]
    slow = [gap for gap, when in zip(gaps, asked, strict=False) if when > 200]
    assert max(fast) <= POLL_SECONDS * 1.01
    assert min(fast) >= POLL_SECONDS * 0.99
    assert max(slow) <= POLL_SECONDS * 1.01
    assert not LeavePoll(World.alone(), 0).must_leave(1, at_once=True)
