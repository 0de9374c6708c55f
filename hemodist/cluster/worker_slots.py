"""Whether a cluster has room for workers: what a run waits for, and when it can go on with more of them."""

from __future__ import annotations

import time
from collections.abc import Mapping

import ray
from ray._private.state import available_resources_per_node, state

from hemodist.config.run import ScalingConfig
from hemodist.events import AttemptStarted, Event, WorkersLost

_PATIENCE_SECONDS = 20.0
"""Without workers, after which the terminal says what is waited for."""

_AGAIN_SECONDS = 300.0
"""After which it says so again."""

_LOOK_SECONDS = 3.0
"""Between two looks for room."""

_POLL_SECONDS = 0.5
"""Likewise, while a run waits for it."""

Resources = Mapping[str, float]


class Waiting:
    """Says what is waited for while there are no workers, and with how many the run goes on."""

    def __init__(self, scaling: ScalingConfig, resources: Resources) -> None:
        """Wait from now on.

        Args:
            scaling: how many workers are asked for.
            resources: of one worker.
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
        room = places([node["Resources"] for node in ray.nodes() if node["Alive"]], self._resources)
        needed = self._scaling.fewest
        if room < needed:
            return f"waiting: the cluster has room for {room} workers, and the run needs {needed}"
        free = places(list(available_resources_per_node().values()), self._resources)
        if free < needed:
            return f"waiting: {free} of the cluster's {room} places are free, and the run needs {needed}"
        return f"waiting: there is room for {free} workers, and they have not started yet; Ray's logs may say why"


class Growth:
    """Says when a run that has fewer workers than asked for should be started again with more."""

    def __init__(self, scaling: ScalingConfig, resources: Resources) -> None:
        """Look for room.

        Args:
            scaling: how many workers are asked for, and how long there must have been room for more.
            resources: of one worker.
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
        """Whether to start again with more workers; True once an attempt."""
        now = time.monotonic()
        if not self._lacking or now < self._next:
            return False
        self._next = now + _LOOK_SECONDS
        leaving = state.get_draining_nodes()
        free = [node for name, node in available_resources_per_node().items() if name not in leaving]
        if not places(free, self._resources):
            self._since = None
            return False
        self._since = self._since or now
        if now - self._since < self._scaling.grow_seconds:
            return False
        self._lacking = False
        return True


def most_now(scaling: ScalingConfig, resources: Resources) -> int:
    """How many workers to ask Ray for: `scaling.workers`, or fewer where others hold their places.

    Ray counts what all nodes have, used by others and about to leave or not, asks for so many workers, and does so
    again for ever where they do not come. What is free is known here: it is waited for as long as for lost workers.

    Args:
        scaling: how many are wanted, how many are enough, and how long more of them are waited for.
        resources: of one worker.
    """
    deadline = time.monotonic() + scaling.wait_seconds
    while scaling.fewest < scaling.workers:
        leaving = state.get_draining_nodes()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
        free = [node for name, node in available_resources_per_node().items() if name not in leaving]
        able = places(free, resources)
        if able >= min(scaling.workers, places(nodes, resources)):  # nobody else is in the way
            return max(scaling.fewest, min(scaling.workers, able)) if leaving else scaling.workers
        if time.monotonic() > deadline:
            return max(scaling.fewest, min(scaling.workers, able))
        time.sleep(_POLL_SECONDS)
    return scaling.workers


def places(nodes: list[Resources], worker: Resources) -> int:
    """How many workers fit onto nodes, each worker onto one.

    >>> places([{"CPU": 5.0}, {"CPU": 3.0, "GPU": 1.0}], {"CPU": 2})
    3
    >>> places([{"CPU": 5.0}, {"CPU": 3.0, "GPU": 1.0}], {"CPU": 2, "GPU": 1})
    1
    """
    return sum(min(int(node.get(name, 0) // amount) for name, amount in worker.items()) for node in nodes)
