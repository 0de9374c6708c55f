from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemodist.dataset.labels import LABELS
from hemodist.errors import ConfigError
from hemodist.plan.order import Plan
from hemodist.plan.sampling_weights import balanced, classes, weighted


def plan_of(weights, *, seed=0, batch=32, mix=8, per_shard=40, block=3) -> Plan:
    n = len(weights)
    shards = (np.arange(n) // per_shard).astype(np.int32)
    return Plan(np.arange(n, dtype=np.int64) * 2, shards, seed, batch, mix, block, np.asarray(weights, np.int64))


def labels_of(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 6)) < [0, 0.02, 0.08, 0.06, 0.1, 0.12]).astype(np.int8)
    labels[:, 0] = labels.any(axis=1)
    labels[rng.random((n, 6)) < 0.02] = -1
    return labels


@settings(max_examples=25, deadline=None)
@given(
    weights=st.lists(st.integers(0, 50), min_size=1, max_size=200).filter(any),
    world=st.integers(1, 64),
    groups=st.integers(1, 80),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_weighted_epoch_has_n_positions_and_each_sample_its_share_for_any_world_size(weights, world, groups, seed):
    n, mix = len(weights), 4
    plan = plan_of(weights, seed=seed, batch=mix * max(groups, world), mix=mix)
    epochs = 2
    parts = [[plan.at(step, rank, world) for rank in range(world)] for step in range(plan.steps(epochs))]
    for field in ("rows", "epochs", "repeats"):
        joined = [np.concatenate([getattr(share, field) for share in step]) for step in parts]
        alone = [getattr(plan.at(step), field) for step in range(plan.steps(epochs))]
        assert all(np.array_equal(a, b) for a, b in zip(joined, alone, strict=True))
    stream = np.concatenate([share.rows for step in parts for share in step])
    repeats = np.concatenate([share.repeats for step in parts for share in step])
    for epoch in range(epochs):
        times = np.bincount(stream[epoch * n : (epoch + 1) * n] // 2, minlength=n)
        assert times.sum() == n
        for count, weight in zip(times, weights, strict=True):
            wanted = Fraction(n * weight, sum(weights))
            assert abs(count - wanted) < 1  # rounded down or up
        here = list(zip(stream[epoch * n : (epoch + 1) * n], repeats[epoch * n : (epoch + 1) * n], strict=True))
        assert len(set(here)) == n  # repeats of a sample are numbered


def test_equal_weights_read_every_sample_once():
    assert sorted(plan_of([7] * 333).order(4)) == list(range(0, 666, 2))


def test_over_many_epochs_each_sample_is_read_in_proportion_to_its_weight():
    weights = np.array([1, 2, 3, 10, 0] * 20)
    plan = plan_of(weights)
    times = sum(np.bincount(plan.order(epoch) // 2, minlength=100) for epoch in range(300)) / 300
    assert np.abs(times - 100 * weights / weights.sum()).max() < 0.15
    assert times[4::5].max() == 0


def test_balanced_sampling_reads_every_class_equally_often():
    labels = labels_of(6000)
    found = classes(labels)
    plan = plan_of(balanced(labels), per_shard=500)
    times = np.bincount(found[plan.order(0) // 2], minlength=7)
    present = np.bincount(found, minlength=7) > 0
    assert np.abs(times[present] - 6000 / present.sum()).max() <= 3
    assert times.sum() == 6000


def test_a_class_is_the_rarest_positive_subtype():
    labels = np.zeros((60, 6), np.int8)
    labels[:40, 5] = labels[:20, 3] = labels[:2, 1] = 1
    labels[:40, 0] = 1
    labels[40:45, 0] = 1  # positive, subtype unknown
    names = [(*LABELS, "none")[number] for number in classes(labels)]
    assert names[:2] == ["epidural"] * 2
    assert names[2:20] == ["intraventricular"] * 18
    assert names[20:40] == ["subdural"] * 20
    assert names[40:45] == ["any"] * 5
    assert names[45:] == ["none"] * 15


def test_the_largest_weight_of_a_slices_positive_labels_counts():
    labels = np.array(
        [[0] * 6, [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1], [1, 0, 0, 0, -1, 0], [0, 0, 0, 0, -1, 0]], np.int8
    )
    assert weighted(labels, (2, 8, 0, 0, 9, 3)).tolist() == [1, 8, 3, 2, 1]


@pytest.mark.parametrize(
    ("weights", "message"),
    [([0, 0], "not all 0"), ([1, -1], "0 or more"), ([2**61, 2**61], "too large for 2 samples")],
)
def test_weights_that_cannot_be_drawn_exactly_are_refused(weights, message):
    with pytest.raises(ConfigError, match=message):
        plan_of(weights)
