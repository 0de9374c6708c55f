"""What a node fetches and keeps while it trains on all of RSNA's slices: the real plan and the real shard cache.

The shards are stand-ins of a few bytes each, so that two epochs of 752,803 slices take seconds; which of them is
fetched, kept and deleted, and when, is decided by the code that decides it in training. Bytes are counted in shards.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow.fs as pafs

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.digest import sha256
from hemodist.dataset.index import INDEX_SCHEMA
from hemodist.dataset.manifest import SCHEMA_VERSION, Manifest, ShardInfo, shard_name
from hemodist.loading.shard_cache import ShardCache
from hemodist.plan.order import Plan
from hemodist.storage.store import Store

PER_SHARD = 1024
BATCH = 256
EPOCHS = 2
_BYTES = 64
"""Of a stand-in."""


@dataclass(frozen=True)
class NodeCost:
    """What one of some nodes, each with one worker and a folder for copies of its own, reads from the store.

    Attributes:
        nodes: how many there are.
        shards: of the data set.
        capacity: copies that the node's folder may hold.
        needed: different shards that the node reads a sample of.
        fetched: whole shards that it reads from the store in all epochs.
        kept: copies at the end.
    """

    nodes: int
    shards: int
    capacity: int
    needed: int
    fetched: int
    kept: int

    @property
    def fetches(self) -> float:
        """How often a shard is fetched, on the average, in `EPOCHS` epochs."""
        return self.fetched / self.shards


@dataclass(frozen=True)
class _StandIns(Store):
    """A store of stand-ins that writes down what is read."""

    names: list[str] = field(default_factory=list)

    def read(self, name: str) -> bytes:
        self.names.append(name)
        return _content(name)


def plan_of(samples: int, batch: int = BATCH) -> Plan:
    """A plan of samples that lie in shards of the usual size."""
    rows = np.arange(samples, dtype=np.int64)
    return Plan(rows, (rows // PER_SHARD).astype(np.int32), 0, batch, mix_group=8, block_shards=16)


def node_cost(nodes: int, samples: int, capacity: float, folder: Path, *, rank: int = 0) -> NodeCost:
    """Take one of some nodes through `EPOCHS` epochs as the loader's reader would: follow the plan, open what is read.

    Args:
        nodes: number of nodes, each with one worker that reads `BATCH` samples a step.
        samples: of the data set.
        capacity: share of the data set's shards that the node's folder may hold, 0 to 1.
        folder: for the copies; empty.
        rank: the node that is looked at.
    """
    shards = -(-samples // PER_SHARD)
    store = _StandIns("bench://stand-ins", str(folder), pafs.SubTreeFileSystem("/", pafs.LocalFileSystem()))
    copies = math.ceil(capacity * shards)
    dataset = DataSet(store, _manifest(shards), INDEX_SCHEMA.empty_table())
    cache = ShardCache(dataset, str(folder), limit=copies * _BYTES)
    plan = plan_of(samples, BATCH * nodes)
    opened: dict[int, BinaryIO] = {}
    needed: set[int] = set()
    for step in range(plan.steps(EPOCHS)):
        needs = plan.needed_shards(step, EPOCHS)
        for shard in opened.keys() - set(needs.now):
            opened.pop(shard).close()
        cache.follow(needs.now, needs.later)
        for shard in np.unique(plan.at(step, rank, nodes).rows // PER_SHARD).tolist():
            if shard not in opened:
                opened[shard] = cache.open(shard)
                needed.add(shard)
    for file in opened.values():
        file.close()
    cache.close()
    for thread in threading.enumerate():  # what is being fetched ahead comes to its end, and counts
        if thread.name.startswith("shard-fetch"):
            thread.join()
    kept = len(list(folder.rglob("*.copy")))
    return NodeCost(nodes, shards, copies, len(needed), len(store.names), kept)


def _content(name: str) -> bytes:
    return name.encode().ljust(_BYTES)


def _manifest(shards: int) -> Manifest:
    names = [shard_name(number) for number in range(shards)]
    infos = tuple(ShardInfo(name, PER_SHARD, _BYTES, sha256(_content(name))) for name in names)
    return Manifest(SCHEMA_VERSION, {}, "", shards, shards, 0, {}, {}, infos, "", "")
