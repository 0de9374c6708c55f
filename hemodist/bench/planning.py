"""What planning costs for the whole of RSNA's data, and how plan and shard cache do with 1 to 16 simulated workers."""

from __future__ import annotations

import statistics
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs

from hemodist.bench.nodes import BATCH, NodeCost, node_cost, plan_of
from hemodist.dataset.dataset import DataSet
from hemodist.loading.shard_cache import ShardCache
from hemodist.plan.order import Plan
from hemodist.storage.store import Store

SAMPLES = 752_803
"""Labelled slices of RSNA's stage 2."""

WORKERS = (1, 2, 4, 8, 16)

CAPACITIES = (1.0, 0.25)
"""Share of the data set's shards that a node's folder for copies has room for."""


@dataclass(frozen=True)
class PlanCost:
    """What one worker pays.

    Attributes:
        start_seconds: from the index's columns to the first batch.
        peak_mib: memory allocated meanwhile and over an epoch, in MiB, at its highest.
        at_microseconds: a batch in turn, the mean over an epoch, which includes ordering it.
        median_microseconds: the median of the same.
        worst_microseconds: the slowest batch of that epoch; it orders the next shards.
        jump_microseconds: a batch anywhere in ten epochs, the median.
    """

    start_seconds: float
    peak_mib: float
    at_microseconds: float
    median_microseconds: float
    worst_microseconds: float
    jump_microseconds: float


def plan_cost(samples: int = SAMPLES) -> PlanCost:
    """Measure a plan of `samples` samples, for a worker that reads whole batches of `BATCH`; in CPU time."""
    start = time.thread_time()
    plan = plan_of(samples)
    plan.at(0)
    seconds = time.thread_time() - start
    steps = plan.steps(1)
    in_turn = [_microseconds(plan, step) for step in range(steps)]
    jumps = np.random.default_rng(0).integers(10 * steps, size=50).tolist()
    anywhere = [_microseconds(plan, step) for step in jumps]
    tracemalloc.start()
    again = plan_of(samples)
    for step in range(0, steps, 8):
        again.at(step)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return PlanCost(
        seconds, peak, statistics.mean(in_turn), statistics.median(in_turn), max(in_turn), statistics.median(anywhere)
    )


@dataclass(frozen=True)
class RankCost:
    """What the slowest of some workers pays for its plan.

    Attributes:
        start_seconds: from the index's columns to its share of the first global batch.
        step_ms: a share of a global batch of `BATCH` samples a worker, in milliseconds, the mean.
        peak_mib: memory that one worker's plan takes at its highest, in MiB.
    """

    start_seconds: float
    step_ms: float
    peak_mib: float


def plan_scaling(samples: int = SAMPLES, planned: int = 2**19) -> dict[int, RankCost]:
    """What a plan costs each of 1 to 16 workers.

    A worker's plan knows nothing of the others, so the workers are run one after the other; the law that their shares
    are the global batch is tested elsewhere.

    Args:
        samples: of the training split.
        planned: samples of the stream, the same for any number of workers, since each orders all of them.
    """
    costs = {}
    for world in WORKERS:
        steps = planned // (BATCH * world)
        ranks = [_rank_cost(samples, steps, rank, world) for rank in range(world)]
        tracemalloc.start()
        _rank_cost(samples, max(steps // 8, 1), world - 1, world)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        costs[world] = RankCost(max(start for start, _ in ranks), max(step for _, step in ranks), peak)
    return costs


def _rank_cost(samples: int, steps: int, rank: int, world: int) -> tuple[float, float]:
    start = time.perf_counter()
    plan = plan_of(samples, BATCH * world)
    plan.at(0, rank, world)
    begun = time.perf_counter()
    for step in range(steps):
        plan.at(step, rank, world)
    return begun - start, 1e3 * (time.perf_counter() - begun) / steps


@dataclass(frozen=True)
class CacheCost:
    """What a node pays whose workers share one folder for copies.

    Attributes:
        fetches: shards read from the store, over all workers.
        shards: of the data set.
        seconds: until every worker has opened every shard.
    """

    fetches: int
    shards: int
    seconds: float


@dataclass(frozen=True)
class _Remote(Store):
    """A folder that counts as an object store, and counts what is read."""

    names: list[str] = field(default_factory=list)

    def read(self, name: str) -> bytes:
        self.names.append(name)
        return super().read(name)


def cache_scaling(dataset: Path, work: Path) -> dict[int, CacheCost]:
    """Let 1 to 16 workers open every shard of a data set at the same time, each worker in a thread with its own cache.

    Args:
        dataset: a local data set, read as if it were remote.
        work: folder for the copies; a fresh one for each number of workers.
    """
    costs = {}
    for world in WORKERS:
        root = str(dataset.resolve())
        store = _Remote(f"bench://{root}", root, pafs.SubTreeFileSystem("/", pafs.LocalFileSystem()))
        opened = DataSet.open(root)
        remote = DataSet(store, opened.manifest, opened.index)
        shards = len(opened.manifest.shards)
        ready = threading.Barrier(world + 1)
        with ThreadPoolExecutor(world) as pool:
            workers = [
                pool.submit(_open_all, remote, work / f"copies-{world}", shards, rank, ready) for rank in range(world)
            ]
            ready.wait()
            start = time.perf_counter()
            for worker in workers:
                worker.result()
            seconds = time.perf_counter() - start
        costs[world] = CacheCost(len(store.names), shards, seconds)
    return costs


def node_scaling(work: Path, samples: int = SAMPLES) -> dict[int, dict[float, NodeCost]]:
    """What one of 1 to 16 nodes fetches in two epochs, by the share of the data set that its folder has room for.

    Args:
        work: folder for the copies.
        samples: of the data set.
    """
    return {
        world: {
            capacity: node_cost(world, samples, capacity, work / f"node-{world}-{capacity:g}")
            for capacity in CAPACITIES
        }
        for world in WORKERS
    }


def plot(
    plans: dict[int, RankCost],
    caches: dict[int, CacheCost],
    nodes: dict[int, dict[float, NodeCost]],
    gigabytes: float,
    path: Path,
) -> None:
    """Cost of the plan, fetches a shard, and bytes from the store over the number of workers; a PNG.

    Args:
        plans: by workers.
        caches: by workers on one node.
        nodes: by nodes and capacity.
        gigabytes: of a shard.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.plot(list(plans), [cost.step_ms for cost in plans.values()], "o-", color="tab:red")
    left.set(title="plan of RSNA's stage 2, the slowest worker", xlabel="workers", ylabel="ms a global batch")
    middle.plot(
        list(caches), [cost.fetches / cost.shards for cost in caches.values()], "o-", label="one node, one epoch"
    )
    for capacity in CAPACITIES:
        fetches = [by_capacity[capacity].fetches for by_capacity in nodes.values()]
        middle.plot(list(nodes), fetches, "o--", label=f"a node each, two epochs, room for {capacity:.0%}")
        total = [by_capacity[capacity].fetched * gigabytes * world for world, by_capacity in nodes.items()]
        right.plot(list(nodes), total, "o--", label=f"room for {capacity:.0%}")
    middle.set(title="shard cache", xlabel="workers, or nodes of one worker", ylabel="fetches a shard and node")
    right.set(title="read from the store in two epochs", xlabel="nodes", ylabel="GB by all nodes")
    for axes in (left, middle, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(WORKERS, [str(world) for world in WORKERS])
        axes.set_ylim(0, None)
    for axes in (middle, right):
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def _microseconds(plan: Plan, step: int) -> float:
    start = time.thread_time()
    plan.at(step)
    return 1e6 * (time.thread_time() - start)


def _open_all(dataset: DataSet, folder: Path, shards: int, rank: int, ready: threading.Barrier) -> None:
    cache = ShardCache(dataset, str(folder))
    ready.wait()
    for number in range(shards):  # each begins elsewhere, as ranks of a shuffled stream do
        with cache.open((number + rank * shards // 16) % shards):
            pass
    cache.close()
