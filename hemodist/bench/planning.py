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

from hemodist.cache import ShardCache
from hemodist.manifest import DataSet
from hemodist.plan import Plan
from hemodist.store import Store

SAMPLES = 752_803
"""Labelled slices of RSNA's stage 2."""

PER_SHARD = 1024
BATCH = 256
WORKERS = (1, 2, 4, 8, 16)


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
    """Measure a plan of `samples` samples, for a worker that reads whole batches of `BATCH`."""
    start = time.perf_counter()
    plan = _plan(samples)
    plan.at(0)
    seconds = time.perf_counter() - start
    steps = plan.steps(1)
    in_turn = [_microseconds(plan, step) for step in range(steps)]
    jumps = np.random.default_rng(0).integers(10 * steps, size=50).tolist()
    anywhere = [_microseconds(plan, step) for step in jumps]
    tracemalloc.start()
    again = _plan(samples)
    for step in range(0, steps, 8):
        again.at(step)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return PlanCost(
        seconds, peak, statistics.mean(in_turn), statistics.median(in_turn), max(in_turn), statistics.median(anywhere)
    )


def plan_scaling(samples: int = SAMPLES, steps: int = 200) -> dict[int, float]:
    """Steps a second that the slowest of 1 to 16 workers can plan, global batch `BATCH` samples a worker.

    A worker's plan knows nothing of the others, so the workers are run one after the other; the law that their shares
    are the global batch is tested elsewhere.
    """
    rates = {}
    for world in WORKERS:
        slowest = 0.0
        for rank in range(world):
            plan = _plan(samples, BATCH * world)
            plan.at(0, rank, world)
            start = time.perf_counter()
            for step in range(steps):
                plan.at(step, rank, world)
            slowest = max(slowest, time.perf_counter() - start)
        rates[world] = steps / slowest
    return rates


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


def plot(plans: dict[int, float], caches: dict[int, CacheCost], path: Path) -> None:
    """Both over the number of workers; a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(list(plans), list(plans.values()), "o-")
    left.set(title=f"plan of {SAMPLES:,} samples", ylabel="steps a second of the slowest worker", ylim=(0, None))
    right.plot(list(caches), [cost.fetches / cost.shards for cost in caches.values()], "o-")
    right.set(title="shard cache of one node", ylabel="fetches a shard", ylim=(0, 2))
    for axes in (left, right):
        axes.set_xlabel("workers")
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(plans), [str(world) for world in plans])
    figure.savefig(path, dpi=120)


def _plan(samples: int, batch: int = BATCH) -> Plan:
    rows = np.arange(samples, dtype=np.int64)
    return Plan(rows, (rows // PER_SHARD).astype(np.int32), 0, batch, mix_group=8, block_shards=16)


def _microseconds(plan: Plan, step: int) -> float:
    start = time.perf_counter()
    plan.at(step)
    return 1e6 * (time.perf_counter() - start)


def _open_all(dataset: DataSet, folder: Path, shards: int, rank: int, ready: threading.Barrier) -> None:
    cache = ShardCache(dataset, str(folder))
    ready.wait()
    for number in range(shards):  # each begins elsewhere, as ranks of a shuffled stream do
        with cache.open((number + rank * shards // 16) % shards):
            pass
    cache.close()
