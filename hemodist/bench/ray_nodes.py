"""Several Ray nodes on this machine, one CPU each, to kill, drain and add while a run goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from hemodist.cluster.session import no_process_left_behind  # isort: skip - this module sets what Ray reads when it is imported

import psutil
import ray
from ray.cluster_utils import Cluster

from hemodist.cluster.ray_internals import announce_end, is_training_worker, on_loopback, raylet_pid

_STORE_BYTES = 80_000_000


class Nodes:
    """A head without CPUs, where the driver is, and nodes of one CPU, so one worker, each."""

    def __init__(self, count: int) -> None:
        """Start the head and `count` nodes."""
        head = {"num_cpus": 0, "node_ip_address": "127.0.0.1", "object_store_memory": _STORE_BYTES}
        self.cluster = Cluster(initialize_head=True, head_node_args=head | {"include_dashboard": False})
        self._added = 0
        for _ in range(count):
            self.add()

    def add(self) -> None:
        """Add a node; on the main thread only."""
        self._added += 1
        address = f"127.0.0.{self._added + 1}"
        self.cluster.add_node(num_cpus=1, node_ip_address=address, object_store_memory=_STORE_BYTES)

    def kill(self) -> None:
        """SIGKILL everything of a node with a training worker, as a power cut would."""
        self.cluster.remove_node(self._working(), allow_graceful=False)

    def drain(self, seconds: float) -> None:
        """Announce that a node with a training worker will be taken away, as clouds do.

        Raises:
            RuntimeError: the cluster does not accept it.
        """
        if refusal := announce_end(self._working().node_id, self.cluster.gcs_address, seconds, "spot"):
            raise RuntimeError(f"the cluster does not accept that a node goes: {refusal}")

    def _working(self) -> Any:
        for node in self.cluster.worker_nodes:
            if training_workers(psutil.Process(raylet_pid(node))):
                return node
        raise RuntimeError("no node has a training worker")


def training_workers(ancestor: psutil.Process) -> list[psutil.Process]:
    """The training workers among the descendants of a process."""
    workers = []
    for process in ancestor.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # gone by now
            if is_training_worker(process.cmdline()):
                workers.append(process)
    return workers


@contextlib.contextmanager
def ray_nodes(count: int) -> Iterator[Nodes]:
    """Nodes for the length of a `with` block, with this process as the driver.

    The head is on 127.0.0.1. The other nodes have addresses of their own, or Ray would take them for one, and Ray opens
    their ports on all interfaces of the machine.
    """
    with no_process_left_behind(), on_loopback():
        started = Nodes(count)
        try:
            ray.init(address=started.cluster.address, log_to_driver=False, logging_level="ERROR")
            yield started
        finally:
            ray.shutdown()
            started.cluster.shutdown()
