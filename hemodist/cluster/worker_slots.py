"""Slots for workers on a running cluster: how many are free, what a run waits for, and when it can grow.

A slot is what one worker reserves on one node: its CPUs, and a GPU where it computes on one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import ray

from hemodist.cluster.ray_internals import free_resources, leaving_nodes
from hemodist.config.operation import ScalingConfig
from hemodist.events import AttemptStarted, Event, WorkersLost

_PATIENCE_SECONDS = 20.0
"""A run without workers says after this long what it waits for."""

_AGAIN_SECONDS = 300.0
"""Then it says so again every so often."""

_LOOK_SECONDS = 3.0
"""Between two looks for free slots while a run goes on with fewer workers than it wants."""

_POLL_SECONDS = 0.5
"""Between two looks for free slots while no worker runs."""

Resources = Mapping[str, float]
"""Ray's name of a resource, such as CPU or GPU, to an amount."""


class WaitingForSlots:
    """While a run has no workers, says what it waits for; and with how many workers it then goes on."""

    def __init__(self, scaling: ScalingConfig, resources: Resources) -> None:
        """The wait begins.

        Args:
            scaling: how many workers are asked for.
            resources: what one worker reserves.
        """
        self._scaling, self._resources = scaling, resources
        self._workers = scaling.workers
        self.begin()

    def begin(self) -> None:
        """There are no workers from now on."""
        self._since: float | None = time.monotonic()

    def hear(self, event: Event) -> str | None:
        """Take an event into account; returns a note for the user, or None."""
        if isinstance(event, WorkersLost):
            self.begin()
        if not isinstance(event, AttemptStarted):
            return None
        self._since = None
        before, self._workers = self._workers, event.workers
        if self._workers == before:
            return None
        return f"going on with {self._workers} of {self._scaling.workers} workers"

    def look(self) -> str | None:
        """A note for the user where nothing has happened for long, and again every few minutes."""
        if self._since is None or time.monotonic() - self._since < _PATIENCE_SECONDS:
            return None
        self._since = time.monotonic() + _AGAIN_SECONDS - _PATIENCE_SECONDS
        slots = slots_on([node["Resources"] for node in ray.nodes() if node["Alive"]], self._resources)
        needed = self._scaling.fewest
        if slots < needed:
            return f"waiting: the cluster has slots for {slots} workers, and the run needs {needed}"
        free = slots_on(list(free_resources().values()), self._resources)
        if free < needed:
            return f"waiting: {free} of the cluster's {slots} slots for workers are free, and the run needs {needed}"
        return f"waiting: slots for {free} workers are free, and they have not started yet; Ray's logs may say why"


class GrowthMonitor:
    """Says when a run that has fewer workers than asked for should be started again with more."""

    def __init__(self, scaling: ScalingConfig, resources: Resources) -> None:
        """No workers yet.

        Args:
            scaling: how many workers are asked for, and how long slots must have been free before the run grows.
            resources: what one worker reserves.
        """
        self._scaling, self._resources = scaling, resources
        self._lacking = False
        self._next = 0.0
        self._since: float | None = None

    def hear(self, event: Event) -> None:
        """Take an event into account."""
        if isinstance(event, AttemptStarted):
            self._lacking, self._since = event.workers < self._scaling.workers, None
        elif isinstance(event, WorkersLost):
            self._lacking = False

    def wanted(self) -> bool:
        """Whether to start again with more workers; True at most once for each group of workers."""
        now = time.monotonic()
        if not self._lacking or now < self._next:
            return False
        self._next = now + _LOOK_SECONDS
        leaving = leaving_nodes()
        free = [node for name, node in free_resources().items() if name not in leaving]
        if not slots_on(free, self._resources):
            self._since = None
            return False
        self._since = self._since or now
        if now - self._since < self._scaling.grow_seconds:
            return False
        self._lacking = False
        return True


def worker_resources(scaling: ScalingConfig, nodes: list[Resources], *, gpu: bool) -> dict[str, int]:
    """What one worker reserves; its CPUs follow the nodes where `cpus_per_worker` is None and it computes on a GPU.

    Args:
        scaling: CPUs a worker, or None.
        nodes: what each node has; those without a GPU do not count. Where no node with GPUs is there yet, a worker
            reserves one CPU.
        gpu: whether a worker reserves a GPU.

    >>> worker_resources(ScalingConfig(), [{"CPU": 84.0, "GPU": 8.0}, {"CPU": 4.0}], gpu=True)
    {'CPU': 10, 'GPU': 1}
    """
    if scaling.cpus_per_worker is not None or not gpu:
        cpus = scaling.fewest_cpus
    else:
        shares = [int(node.get("CPU", 0) // node["GPU"]) for node in nodes if node.get("GPU", 0) >= 1]
        cpus = max(1, min(shares, default=1))
    return {"CPU": cpus} | ({"GPU": 1} if gpu else {})


def workers_to_ask_for(scaling: ScalingConfig, resources: Resources) -> int:
    """How many workers to ask Ray for: `scaling.workers`, or fewer where somebody else holds their slots.

    Ray itself counts what all nodes have, even if others use it or the node is about to leave. It asks for so many
    workers, and where they do not come, for as many again, without end. So the slots that are free are counted here,
    and waited for as long as the slots of lost workers.

    Args:
        scaling: how many are wanted, how many are enough, and how long more of them are waited for.
        resources: what one worker reserves.
    """
    deadline = time.monotonic() + scaling.wait_seconds
    while scaling.fewest < scaling.workers:
        leaving = leaving_nodes()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
        free = slots_on([node for name, node in free_resources().items() if name not in leaving], resources)
        if free >= min(scaling.workers, slots_on(nodes, resources)):  # nobody else is in the way
            return max(scaling.fewest, min(scaling.workers, free)) if leaving else scaling.workers
        if time.monotonic() > deadline:
            return max(scaling.fewest, min(scaling.workers, free))
        time.sleep(_POLL_SECONDS)
    return scaling.workers


def slots_on(nodes: list[Resources], worker: Resources) -> int:
    """How many workers fit onto nodes; a worker takes all its resources from one node.

    Args:
        nodes: what each node has, or has free.
        worker: what one worker reserves.

    >>> slots_on([{"CPU": 5.0}, {"CPU": 3.0, "GPU": 1.0}], {"CPU": 2})
    3
    >>> slots_on([{"CPU": 5.0}, {"CPU": 3.0, "GPU": 1.0}], {"CPU": 2, "GPU": 1})
    1
    """
    return sum(min(int(node.get(name, 0) // amount) for name, amount in worker.items()) for node in nodes)
