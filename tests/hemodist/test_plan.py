from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemodist.errors import ConfigError
from hemodist.plan import Plan, check_batch, eval_bounds, share_bounds


def plan_of(n: int, *, batch: int = 32, mix: int = 8, per_shard: int = 50, block: int = 4, seed: int = 0) -> Plan:
    rows = np.arange(n, dtype=np.int64) * 3  # rows of the index are not 0, 1, 2, ...
    return Plan(rows, (np.arange(n) // per_shard).astype(np.int32), seed, batch, mix, block)


@settings(max_examples=150, deadline=None)
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


def test_shards_are_named_in_the_order_in_which_they_are_needed():
    plan = plan_of(1000, per_shard=50)
    seen = dict.fromkeys((plan.order(2) // 3 // 50).tolist())
    assert plan.shard_order(2) == list(seen)


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


def test_shuffling_mixes_patients_nearly_as_well_as_a_full_shuffle():
    # 100 patients of 40 slices, dealt to 40 shards of 100 at random as the sharder does; batches of 64.
    rng = np.random.default_rng(0)
    patient = rng.permutation(np.repeat(np.arange(100), 40))
    plan = plan_of(4000, batch=64, mix=8, per_shard=100, block=8)

    def pairs_of_one_patient(order: np.ndarray) -> float:
        batches = patient[order[: 62 * 64]].reshape(62, 64)
        return float(np.mean([(np.bincount(batch) * (np.bincount(batch) - 1)).sum() for batch in batches]))

    ours = np.mean([pairs_of_one_patient(plan.order(epoch) // 3) for epoch in range(10)])
    full = np.mean([pairs_of_one_patient(rng.permutation(4000)) for _ in range(10)])
    assert ours == pytest.approx(full, rel=0.15)


def test_planning_for_the_whole_data_set_is_cheap():
    n = 752_803
    start = time.perf_counter()
    plan = plan_of(n, batch=256, mix=16, per_shard=1024, block=16)
    plan.at(0)
    assert time.perf_counter() - start < 3  # 0.2 s on an idle core
    start = time.perf_counter()
    for step in range(100):
        plan.at(step, 3, 8)
    assert (time.perf_counter() - start) / 100 < 5e-3  # 0.03 ms on an idle core
