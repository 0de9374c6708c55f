"""The checks on every node of a Ray cluster, and those between nodes: common storage, clocks and bandwidth."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hemodist.dataset.digest import sha256
from hemodist.doctor import all_reduce as ring
from hemodist.doctor.finding import Finding, agree
from hemodist.doctor.node_checks import Wanted, check_node, checks_of
from hemodist.errors import UserError
from hemodist.storage.store import Store

MAX_SKEW = 1.0
"""Seconds that clocks may differ. Beyond, logs of nodes no longer fit together; object stores refuse at 15 minutes."""

_PINGS = 5
PATIENCE = 180.0
"""Seconds that no check ends before the rest is given up, and that ranks may take to find each other."""


class Probe:
    """An actor that runs the checks on one node, or one rank of the all-reduce."""

    def clock(self) -> float:
        """Seconds since 1970 by this node's clock."""
        return time.time()

    def check(self, wanted: Wanted, node: str, name: str) -> list[Finding]:
        """Make a check of this node."""
        return check_node(wanted, node, name)

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


def check_cluster(wanted: Wanted, mebibytes: int, tell: Callable[[Finding], None]) -> list[Finding]:
    """Check every node, storage and clocks between them, and all-reduces over the GPUs, or over CPUs without any.

    Args:
        wanted: what to check on each node.
        mebibytes: size of the tensor of the all-reduce.
        tell: told each finding as soon as there is one.
    """
    findings: list[Finding] = []

    def add(found: Iterable[Finding]) -> None:
        for finding in found:
            findings.append(finding)
            tell(finding)

    nodes = {node["NodeManagerAddress"]: node for node in ray.nodes() if node["Alive"]}
    probe = ray.remote(num_cpus=0)(Probe)
    probes = {name: probe.options(scheduling_strategy=_on(node)).remote() for name, node in sorted(nodes.items())}
    # A relative path means the driver's folder, for runs as well.
    wanted = replace(wanted, storage=Store.open(wanted.storage).uri)
    asked: dict[Any, tuple[str, str]] = {}
    for node, each in probes.items():
        its = replace(wanted, works=has_work(nodes[node]["Resources"]))
        asked |= {each.check.remote(its, node, name): (node, name) for name in checks_of(works=its.works)}
    while asked:
        done, _ = ray.wait(list(asked), timeout=PATIENCE)
        for answer in done or list(asked):
            node, name = asked.pop(answer)
            try:
                add(ray.get(answer, timeout=0))
            except Exception as error:  # the other nodes still tell
                remedy = "look at this node's logs (`ray logs cluster`), its image and its memory"
                said = f"no answer: {type(error).__name__}: {error}"[:300]
                add([Finding(name, node, "to do", said, remedy)])
    add(agree(findings, "versions", "results differ between versions: give all nodes one image"))
    add(
        [
            shared_storage(
                wanted.storage,
                probes,
                lambda node, file: ray.get(probes[node].digest.remote(wanted.storage, file), timeout=PATIENCE),
            )
        ]
    )
    add(_clock(name, each) for name, each in probes.items())
    add(_rings(nodes, mebibytes))
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


def _rings(nodes: dict[str, Any], mebibytes: int) -> Iterator[Finding]:
    """All-reduces within each node of several GPUs, all at once, and then over all nodes as training does it."""
    gpus = {name: int(node["Resources"].get("GPU", 0)) for name, node in nodes.items()}
    cpus = {name: int(node["Resources"].get("CPU", 0)) for name, node in nodes.items()}
    within = {
        name: _Ranks([_on(nodes[name])] * count, mebibytes, gpu=True) for name, count in gpus.items() if count > 1
    }
    for name, group in within.items():
        yield group.finding(name, nodes=1)
    with_gpus = sum(count > 0 for count in gpus.values())
    if with_gpus == 1 and within:
        return
    ranks = sum(gpus.values()) or min(max(sum(count > 0 for count in cpus.values()), 2), sum(cpus.values()))
    if ranks < 2:
        found = f"{sum(gpus.values())} GPUs, {sum(cpus.values())} CPUs"
        yield Finding("all-reduce", "all", "not there", found, "one rank exchanges nothing")
        return
    yield _Ranks(["SPREAD"] * ranks, mebibytes, gpu=with_gpus > 0).finding("all", nodes=with_gpus)


class _Ranks:
    """Actors that make an all-reduce together; they are asked to begin at once."""

    def __init__(self, places: list[Any], mebibytes: int, *, gpu: bool) -> None:
        """Start an actor for each scheduling strategy of Ray, with a GPU each or a CPU each."""
        rank = ray.remote(num_gpus=int(gpu), num_cpus=int(not gpu))(Probe)
        self._actors = [rank.options(scheduling_strategy=place).remote() for place in places]
        address = self._actors[0].address.remote()  # Ray gives the others what it returns
        self._parts = [each.ring.remote(i, len(places), address, gpu, mebibytes) for i, each in enumerate(self._actors)]

    def finding(self, where: str, nodes: int) -> Finding:
        """What they have measured, or why they have not; ends them."""
        try:
            return ring.finding(ray.get(self._parts, timeout=PATIENCE), where, nodes)
        except (ray.exceptions.RayError, UserError) as error:
            remedy = "are the workers busy with another job? do they reach each other (network policy, interface)?"
            found = f"{len(self._actors)} ranks: {type(error).__name__}: {error}"[:300]
            return Finding("all-reduce", where, "to do", found, remedy)
        finally:
            for actor in self._actors:
                ray.kill(actor)


def _on(node: Mapping[str, Any]) -> NodeAffinitySchedulingStrategy:
    """On this node of `ray.nodes()` and no other."""
    return NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
