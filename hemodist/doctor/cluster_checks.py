"""The checks on every node of a Ray cluster, and those between nodes: common storage, clocks and bandwidth."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hemodist.dataset.digest import sha256
from hemodist.doctor import all_reduce as ring
from hemodist.doctor.finding import Finding, agree
from hemodist.doctor.node_checks import Wanted, check_node
from hemodist.errors import UserError
from hemodist.storage.store import Store

MAX_SKEW = 1.0
"""Seconds that clocks may differ. Beyond, logs of nodes no longer fit together; object stores refuse at 15 minutes."""

_PINGS = 5
PATIENCE = 180.0
"""Seconds that a node may take for its checks, and the ranks to find each other."""


class Probe:
    """An actor that runs the checks on one node, or one rank of the all-reduce."""

    def clock(self) -> float:
        """Seconds since 1970 by this node's clock."""
        return time.time()

    def check(self, wanted: Wanted, node: str) -> list[Finding]:
        """Make the checks of this node."""
        return check_node(wanted, node)

    def digest(self, storage: str, name: str) -> str:
        """The sha256 of a file as this node sees it; empty where it does not."""
        try:
            return sha256(Store.open(storage).read(name))
        except UserError:
            return ""

    def address(self) -> str:
        """`host:port` of this node at which the ranks can find each other."""
        return f"{ray.util.get_node_ip_address()}:{ring.free_port()}"

    def ring(self, rank: int, ranks: int, address: str, gpu: bool, mebibytes: int) -> ring.Ring:
        """Take part in the all-reduce as one rank."""
        return ring.measure(rank, ranks, address, gpu=gpu, mebibytes=mebibytes)


def check_cluster(wanted: Wanted, mebibytes: int) -> list[Finding]:
    """Check every node, storage and clocks between them, and an all-reduce over all GPUs, or over CPUs without any.

    Args:
        wanted: what to check on each node.
        mebibytes: size of the tensor of the all-reduce.
    """
    nodes = {node["NodeManagerAddress"]: node for node in ray.nodes() if node["Alive"]}
    probe = ray.remote(num_cpus=0)(Probe)
    probes = {
        name: probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
        for name, node in sorted(nodes.items())
    }
    findings: list[Finding] = []
    # A relative path means the driver's folder, for runs as well.
    wanted = replace(wanted, storage=Store.open(wanted.storage).uri)
    asked = {
        name: each.check.remote(replace(wanted, works=has_work(nodes[name]["Resources"])), name)
        for name, each in probes.items()
    }
    for name, answer in asked.items():
        try:
            findings += ray.get(answer, timeout=PATIENCE)
        except Exception as error:  # the other nodes still tell
            remedy = "look at this node's logs (`ray logs cluster`), its image and its memory"
            findings.append(Finding("node", name, "to do", f"no answer: {type(error).__name__}: {error}"[:300], remedy))
    findings += agree(findings, "versions", "results differ between versions: give all nodes one image")
    findings.append(
        shared_storage(
            wanted.storage,
            probes,
            lambda node, file: ray.get(probes[node].digest.remote(wanted.storage, file), timeout=PATIENCE),
        )
    )
    findings += [_clock(name, each) for name, each in probes.items()]
    findings.append(_ring(nodes, mebibytes))
    return findings


def has_work(resources: Mapping[str, float]) -> bool:
    """Whether Ray gives a node with these resources any work.

    >>> has_work({"CPU": 8.0}), has_work({"memory": 1e9, "node:__internal_head__": 1.0})
    (True, False)
    """
    return any(resources.get(name, 0) > 0 for name in ("CPU", "GPU"))


def shared_storage(uri: str, nodes: Iterable[str], digest: Callable[[str, str], str]) -> Finding:
    """Whether all nodes see what the driver writes, and not a folder of their own at the same path.

    Args:
        uri: of the storage.
        nodes: names of the nodes.
        digest: (node, name of a file) -> its sha256 as that node sees it.
    """
    store, name, content = Store.open(uri), f".doctor-{uuid.uuid4().hex}", os.urandom(1024)
    unseen, seen = [], 0
    try:
        store.write(name, content)
        try:
            for node in nodes:
                try:
                    there = digest(node, name) == sha256(content)
                except Exception:  # the node's own checks say what is wrong with it
                    there = False
                seen += there
                unseen += [] if there else [node]
        finally:
            store.delete(name)
    except UserError as error:
        remedy = "the driver writes there, too: check the path, the keys and what the head mounts"
        return Finding("shared storage", "driver", "to do", str(error), remedy)
    if unseen:
        found = f"{store.uri}: what the driver writes is not seen by {', '.join(sorted(unseen))}"
        remedy = "use an object store, or a folder that every node mounts at the same path"
        return Finding("shared storage", "all", "to do", found, remedy)
    return Finding("shared storage", "all", "pass", f"{store.uri}: all {seen} nodes see what the driver writes")


def _clock(name: str, probe: Any) -> Finding:
    """How far a node's clock is from this one's. It is asked a few times, and the fastest answer counts."""
    best = (float("inf"), 0.0)
    try:
        for _ in range(_PINGS):
            before = time.time()
            there = ray.get(probe.clock.remote(), timeout=PATIENCE)
            after = time.time()
            best = min(best, (after - before, there - (before + after) / 2))
    except ray.exceptions.RayError as error:
        return Finding("clock", name, "to do", f"no answer: {type(error).__name__}", "look at this node's logs")
    return judge_clock(name, best[1], best[0] / 2)


def judge_clock(name: str, offset: float, within: float) -> Finding:
    """The finding for an offset between clocks.

    Args:
        name: of the node.
        offset: of its clock from the driver's, in seconds.
        within: half the time that the answer took, in seconds: the offset is uncertain by as much.
    """
    found = f"{offset:+.3f} s from the driver's, give or take {within:.3f} s"
    if abs(offset) - within > MAX_SKEW:
        return Finding("clock", name, "to do", found, "let the nodes follow a time server (chrony, systemd-timesyncd)")
    return Finding("clock", name, "pass", found)


def _ring(nodes: dict[str, Any], mebibytes: int) -> Finding:
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    workers = sum(1 for node in nodes.values() if node["Resources"].get("CPU", 0) >= 1)
    ranks = gpus or min(max(workers, 2), cpus)
    if ranks < 2:
        return Finding("all-reduce", "all", "not there", f"{gpus} GPUs, {cpus} CPUs", "one rank exchanges nothing")
    rank = ray.remote(num_gpus=int(gpus > 0), num_cpus=int(gpus == 0), scheduling_strategy="SPREAD")(Probe)
    actors = [rank.remote() for _ in range(ranks)]
    try:
        address = ray.get(actors[0].address.remote(), timeout=PATIENCE)
        parts = [each.ring.remote(i, ranks, address, gpus > 0, mebibytes) for i, each in enumerate(actors)]
        measured = ray.get(parts, timeout=PATIENCE)
    except (ray.exceptions.RayError, UserError) as error:
        remedy = "are the workers busy with another job? do they reach each other (network policy, interface)?"
        return Finding("all-reduce", "all", "to do", f"{ranks} ranks: {type(error).__name__}: {error}"[:300], remedy)
    finally:
        for actor in actors:
            ray.kill(actor)
    return ring.finding(min(measured, key=lambda part: (part.exact, part.bytes_per_s)))
