"""How well the block shuffle mixes, against a full uniform shuffle of the same samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hemodist.plan.order import Plan

SHARDS, PER_SHARD, PATIENTS, BATCH, EPOCHS = 200, 256, 1500, 64, 8
"""A fiftieth of the full data set: 51,200 slices, about 34 of each patient."""


def together(member: np.ndarray, order: np.ndarray) -> float:
    """The share of pairs within a batch that are of one kind: the within-batch correlation and its chance level."""
    batches = member[order[: len(order) // BATCH * BATCH]].reshape(-1, BATCH)
    ordered = np.sort(batches, axis=1)
    pairs = sum((ordered[:, k:] == ordered[:, :-k]).sum() for k in range(1, BATCH))
    return float(pairs / (len(batches) * BATCH * (BATCH - 1) / 2))


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, float]]:
    rng = np.random.default_rng(0)
    n = SHARDS * PER_SHARD
    # As the sharder deals them: the files in a random order, so that a patient's slices lie in many shards.
    members = {"patient": rng.integers(0, PATIENTS, n), "shard": np.arange(n) // PER_SHARD}
    plan = Plan(np.arange(n), members["shard"].astype(np.int32), 7, BATCH, 8, block_shards=16)
    orders = {
        "ours": [plan.order(epoch) for epoch in range(EPOCHS)],
        "uniform": [rng.permutation(n) for _ in range(EPOCHS)],
        "unshuffled": [np.arange(n)],
    }
    return {
        name: {kind: float(np.mean([together(member, order) for order in those])) for kind, member in members.items()}
        for name, those in orders.items()
    }


def test_slices_of_a_patient_meet_in_a_batch_no_more_often_than_in_a_uniform_shuffle(figures):
    assert figures["uniform"]["patient"] == pytest.approx(1 / PATIENTS, rel=0.05)
    assert figures["ours"]["patient"] == pytest.approx(figures["uniform"]["patient"], rel=0.08)


def test_slices_of_a_shard_meet_as_often_as_a_block_of_16_shards_must_have_it(figures):
    # Within a block the shuffle is uniform: a pair is of one of the block's 16 shards by chance, and no more.
    assert figures["uniform"]["shard"] == pytest.approx(1 / SHARDS, rel=0.05)
    chance = (PER_SHARD - 1) / (16 * PER_SHARD - 1)
    assert figures["ours"]["shard"] == pytest.approx(chance, rel=0.06)  # the last block holds half as many shards
    assert figures["unshuffled"]["shard"] == 1


def test_neighbouring_epochs_share_no_order():
    plan = Plan(np.arange(4000), (np.arange(4000) // 100).astype(np.int32), 0, 50, 5, block_shards=8)
    places = [np.argsort(plan.order(epoch)) for epoch in range(8)]
    for one, other in itertools.pairwise(places):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.25  # shards move as wholes: 40 of them
        assert ((one // 50) == (other // 50)).mean() < 0.06  # a sample's batch tells nothing of its next one
