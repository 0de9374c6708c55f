"""A compiled network is the same network: its checkpoints go on without torch.compile, and the other way round."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hemodist.models import network
from hemodist.models.checkpoints import open_checkpoint
from hemodist.world import World
from tests.support.fault_runs import assert_no_step_is_lost_or_repeated, newest_step, small_run, train_until
from tests.support.ranks import run_ranks


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_a_run_goes_on_compiled_and_uncompiled_in_turn_and_ends_like_one_that_was_never_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    plain = small_run(tmp_path, "plain", epochs=1)
    train_until(World.alone(), plain)
    turns = replace(plain, name="turns")
    compiled = replace(turns, model=replace(plain.model, compile=True))
    steps = [train_until(World.alone(), run, 3) for run in (compiled, turns)]
    assert steps[0] < steps[1] < train_until(World.alone(), compiled) == newest_step(plain)
    assert_no_step_is_lost_or_repeated(compiled, newest_step(plain))
    found, expected = (open_checkpoint(f"{plain.output}/{name}") for name in ("turns", "plain"))
    for part in ("model", "ema", "scored"):
        assert list(found[part]) == list(expected[part])
    network.untrained_network(plain.model).load_state_dict(found["scored"])  # as evaluate, predict and export do
    for row, other in zip(found["state"]["history"], expected["state"]["history"], strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=0.02)
        assert row["valid_loss"] == pytest.approx(other["valid_loss"], rel=0.05)


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_two_ranks_go_on_compiled_from_what_one_has_saved_uncompiled_and_back(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    run = small_run(tmp_path, "ranks", epochs=1)
    compiled = replace(run, model=replace(run.model, compile=True))
    first = train_until(World.alone(), run, 3)
    second = run_ranks(train_until, 2, compiled, 3)
    assert first < second[0] == second[1] < train_until(World.alone(), run)
    assert_no_step_is_lost_or_repeated(run, newest_step(run))
