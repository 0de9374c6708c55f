from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemodist.config.shares import check_batch, eval_bounds, share_bounds
from hemodist.errors import ConfigError
from hemodist.plan.order import Plan


def plan_of(
    n: int, *, batch: int = 32, mix: int = 8, per_shard: int = 50, block: int = 4, seed: int = 0, weights=None
) -> Plan:
    rows = np.arange(n, dtype=np.int64) * 3  # rows of the index are not 0, 1, 2, ...
    return Plan(rows, (np.arange(n) // per_shard).astype(np.int32), seed, batch, mix, block, weights)


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 2000),
    world=st.integers(1, 64),
    mix=st.sampled_from([1, 2, 4, 8, 16]),
    groups=st.integers(1, 80),
    per_shard=st.integers(1, 300),
    block=st.integers(1, 8),
    seed=st.integers(0, 2**31 - 1),
)
def test_every_sample_is_read_once_an_epoch_for_any_world_size(n, world, mix, groups, per_shard, block, seed):
    batch = mix * max(groups, world)
    plan = plan_of(n, batch=batch, mix=mix, per_shard=per_shard, block=block, seed=seed)
    epochs = 3 if n * 3 <= 3000 else 1
    steps = plan.steps(epochs)
    stream = np.concatenate([plan.at(step, rank, world).rows for step in range(steps) for rank in range(world)])
    assert len(stream) == steps * batch
    for epoch in range(epochs):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == plan.rows.tolist()


@settings(max_examples=100, deadline=None)
@given(worlds=st.lists(st.integers(1, 16), min_size=1, max_size=12), seed=st.integers(0, 100))
def test_a_chain_of_world_sizes_reads_the_undisturbed_sequence(worlds, seed):
    plan = plan_of(333, batch=64, mix=4, seed=seed)
    for step, world in enumerate(worlds):
        alone = plan.at(step)
        shares = [plan.at(step, rank, world) for rank in range(world)]
        assert np.array_equal(np.concatenate([share.rows for share in shares]), alone.rows)
        assert np.array_equal(np.concatenate([share.epochs for share in shares]), alone.epochs)
        assert all(len(share.rows) % 4 == 0 for share in shares)


@given(groups=st.integers(1, 500), world=st.integers(1, 64))
def test_shares_differ_by_at_most_one_mix_group(groups, world):
    sizes = [stop - start for start, stop in (share_bounds(groups * 8, 8, rank, world) for rank in range(world))]
    assert sum(sizes) == groups * 8
    assert max(sizes) - min(sizes) <= 8


@given(samples=st.integers(0, 500), world=st.integers(1, 64))
def test_every_validation_sample_is_on_exactly_one_rank(samples, world):
    bounds = [eval_bounds(samples, rank, world) for rank in range(world)]
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(samples))


def test_the_plan_has_no_state():
    plan, other = plan_of(500), plan_of(500)
    forwards = [plan.at(step).rows for step in range(60)]
    backwards = [other.at(step).rows for step in reversed(range(60))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_shards_are_named_block_by_block_in_the_order_in_which_they_are_needed():
    plan = plan_of(1000, per_shard=50, block=4)
    needed = (plan.order(2) // 3 // 50).reshape(5, 200)
    named = plan.shard_order(2)
    assert [set(block) for block in needed.tolist()] == [set(named[i : i + 4]) for i in range(0, 20, 4)]


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 1500),
    per_shard=st.integers(5, 200),
    block=st.integers(1, 5),
    groups=st.integers(1, 40),
    weigh=st.booleans(),
)
def test_every_shard_that_a_step_reads_is_in_use_at_it_and_was_announced_before(n, per_shard, block, groups, weigh):
    weights = 1 + np.arange(n, dtype=np.int64) % 5 if weigh else None
    plan = plan_of(n, batch=4 * groups, mix=4, per_shard=per_shard, block=block, weights=weights)
    announced: set[int] | None = None
    for step in range(min(plan.steps(2), 60)):
        ahead = plan.needed_shards(step, epochs=4)
        read = set((plan.at(step).rows // 3 // per_shard).tolist())
        assert read <= set(ahead.now)
        assert announced is None or set(ahead.now) <= announced
        assert not set(ahead.now) & set(ahead.later)
        assert len(set(ahead.later)) == len(ahead.later)
        announced = {*ahead.now, *ahead.later}
    assert plan.needed_shards(plan.steps(3), epochs=3).later == ()


def test_ahead_of_the_border_of_two_epochs_lies_the_next_one():
    plan = plan_of(1000, per_shard=50, block=4, batch=40, mix=8)
    last_block = plan.needed_shards(24)  # positions 960 to 999
    assert list(last_block.now) == plan.shard_order(0)[16:]
    assert list(last_block.later) == [shard for shard in plan.shard_order(1) if shard not in last_block.now]
    assert plan.needed_shards(24, epochs=1).later == ()
    assert plan.needed_shards(24) == plan.needed_shards(20)


def test_shards_in_use_on_a_node_are_never_more_than_the_plan_says():
    plan = plan_of(1000, per_shard=50, block=4, batch=16, mix=8)
    largest = max(len(shards) for shards in plan.shards_at_once(2))
    for step in range(2 * 62):
        in_use = {shard for other in range(step, step + 3) for shard in plan.needed_shards(other).now}
        assert len(in_use) <= largest
    assert largest == 8


@pytest.mark.parametrize("seed", range(4))
def test_what_the_plan_asks_for_at_once_is_enough_in_every_epoch_of_the_run(seed):
    rng = np.random.default_rng(seed)
    held = rng.integers(90, 111, 24)
    plan = Plan(
        rows=np.arange(held.sum()), shards=np.repeat(np.arange(24), held), seed=seed, global_batch_size=40, mix_group=8,
        block_shards=4,
    )  # fmt: skip
    bytes_of = rng.integers(900, 1100, 24)
    bound = max(bytes_of[shards].sum() for shards in plan.shards_at_once(9))
    for step in range(plan.steps(9)):
        in_use = {shard for other in range(step, step + 3) for shard in plan.needed_shards(other).now}
        assert bytes_of[sorted(in_use)].sum() <= bound


def test_the_deeper_ranks_prefetch_the_more_shards_they_read_at_a_time():
    plan = plan_of(1000, per_shard=50, block=1, batch=16, mix=8)
    few, many = (max(len(shards) for shards in plan.shards_at_once(2, prefetch)) for prefetch in (0, 20))
    assert many > few + 4


def test_epochs_and_seeds_have_orders_of_their_own():
    plan = plan_of(1000)
    orders = [plan.order(0), plan.order(1), plan_of(1000, seed=1).order(0)]
    for i, one in enumerate(orders):
        for another in orders[:i]:
            assert (one == another).mean() < 0.02


def test_a_block_of_shards_is_read_before_the_next():
    plan = plan_of(1000, per_shard=50, block=4)  # 20 shards in blocks of 4: 200 samples a block
    shard = plan.order(0) // 3 // 50
    for block in range(5):
        assert len(set(shard[block * 200 : (block + 1) * 200])) == 4


@pytest.mark.parametrize(
    ("batch", "mix", "world", "message"),
    [
        (1000, 16, 1, "use 992 or 1008"),
        (8, 16, 1, "use 16$"),
        (32, 16, 3, "too few for 3 workers; use global_batch_size 48 or more"),
        (0, 8, 1, "must be positive"),
    ],
)
def test_a_batch_that_cannot_be_dealt_out_names_the_remedy(batch, mix, world, message):
    with pytest.raises(ConfigError, match=message):
        check_batch(batch, mix, world)


@pytest.mark.parametrize(
    ("rows", "shards", "message"),
    [
        ([0, 1], [1, 0], "in shard order"),
        ([1, 0], [0, 0], "increasing rows"),
        ([], [], "needs samples"),
    ],
)
def test_rows_out_of_order_are_refused(rows, shards, message):
    with pytest.raises(ConfigError, match=message):
        Plan(np.array(rows, np.int64), np.array(shards, np.int32), 0, 32, 8, 4)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("weigh", [False, True])
def test_planning_for_the_whole_data_set_is_cheap(weigh):
    n = 752_803
    rows, shards = np.arange(n, dtype=np.int64), (np.arange(n) // 1024).astype(np.int32)
    weights = 1 + np.arange(n, dtype=np.int64) % 100 if weigh else None
    Plan(rows[:100], shards[:100], 0, 16, 8, 4).at(0)  # what the first call imports is not the plan's
    before = resident_bytes()
    starts, steps = [], []
    for _ in range(5):
        begin = time.process_time()
        plan = Plan(rows, shards, 0, 256, 16, 16, weights)
        plan.at(0)
        plan.needed_shards(0)
        starts.append(time.process_time() - begin)
    for step in range(600):  # ten blocks
        begin = time.process_time()
        plan.at(step)
        plan.needed_shards(step)
        steps.append(time.process_time() - begin)
    plan.at(plan.steps(1))  # another epoch's
    assert min(starts) < 1  # 0.02 s on an idle core
    assert np.mean(steps) < 1e-3  # 0.1 ms on an idle core, most of it where a chunk begins
    assert np.median(steps) < 1e-3
    assert resident_bytes() - before < 100e6  # 7 MB, with weights 30 MB
