from __future__ import annotations

from pathlib import Path

import pytest

from hemodist.bench import planning
from hemodist.bench.nodes import EPOCHS, PER_SHARD, node_cost
from hemodist.bench.planning import CacheCost

SHARDS = 60
SAMPLES = SHARDS * PER_SHARD - 100  # the last shard is not full


@pytest.mark.parametrize("nodes", [1, 4])
def test_a_node_with_room_for_all_reads_every_shard_once_in_all_epochs(nodes: int, tmp_path: Path) -> None:
    for rank in {0, nodes - 1}:
        cost = node_cost(nodes, SAMPLES, 1.0, tmp_path / str(rank), rank=rank)
        assert cost.shards == cost.needed == cost.fetched == cost.kept == SHARDS
        assert cost.fetches == 1


def test_a_node_with_less_room_reads_again_no_more_than_it_could_not_keep(tmp_path: Path) -> None:
    cost = node_cost(2, SAMPLES, 0.75, tmp_path)
    assert cost.capacity == 45
    assert SHARDS + (SHARDS - cost.capacity) <= cost.fetched <= EPOCHS * SHARDS
    assert 0 < cost.kept <= cost.capacity + 4  # what is just being fetched may come on top


def test_every_worker_plans_all_of_rsna_within_the_bounds() -> None:
    costs = planning.plan_scaling(planned=2**14)
    assert list(costs) == [1, 2, 4, 8, 16]
    assert all(cost.peak_mib < 100e6 / 2**20 for cost in costs.values())
    assert all(cost.step_ms > 0 for cost in costs.values())


def test_the_plot_shows_workers_and_nodes(tmp_path: Path) -> None:
    costs = planning.plan_scaling(samples=20_000, planned=2**13)
    nodes = {
        world: {share: node_cost(1, SAMPLES, 1.0, tmp_path / f"{world}-{share}") for share in planning.CAPACITIES}
        for world in (1, 2)
    }
    planning.plot(costs, {1: CacheCost(3, 3, 0.1)}, nodes, 0.03, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
