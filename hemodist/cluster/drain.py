"""Say that this node is about to be taken away, and wait until the training workers have saved and left it.

Kubernetes runs `python -m hemodist.cluster.drain` in a worker's pod when the pod is about to be deleted (`preStop`).
Ray tells the run, which saves the last step and goes on without the node. The command ends when no training worker is
left on the node, or when the time is over; either way Kubernetes then deletes the pod.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil
import tyro

from hemodist.cluster.ray_internals import announce_end, is_training_worker, raylet_flags
from hemodist.errors import UserError
from hemodist.job import filled, run_job

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Raylet:
    """A raylet: Ray's own process on each node, which starts the workers there.

    Attributes:
        pid: of the process; the node's workers are its children.
        node: Ray's hexadecimal id of the node.
        gcs: address of the cluster's control service (GCS), which runs on the head.
    """

    pid: int
    node: str
    gcs: str


def raylets() -> list[Raylet]:
    """Ray's nodes on this machine: one in a pod, several where a test starts them."""
    found = []
    for process in psutil.process_iter():
        try:
            flags = raylet_flags(process.cmdline())
        except psutil.Error:  # gone by now, or another user's
            continue
        if flags is not None:
            found.append(Raylet(process.pid, *flags))
    return found


def workers(raylet: Raylet) -> list[int]:
    """Process ids of the training workers of a node."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.ppid() == raylet.pid and is_training_worker(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def drain(raylet: Raylet, seconds: float) -> None:
    """Announce the end of a node and wait for its training workers to leave.

    Args:
        raylet: the node's.
        seconds: until the node is taken away.

    Raises:
        UserError: the cluster did not accept the notice, or workers are still there when the time is over.
    """
    until = time.monotonic() + seconds
    if refusal := announce_end(raylet.node, raylet.gcs, seconds, "the pod is about to be deleted"):
        raise UserError(f"the cluster does not accept that node {raylet.node} goes: {refusal[-300:]}")
    while left := workers(raylet):
        if time.monotonic() >= until:
            raise UserError(f"{len(left)} training workers are still here after {seconds:.0f} s; they are cut off")
        time.sleep(_POLL_SECONDS)


def main(seconds: float = 100.0, node: str | None = None) -> None:
    """Announce the end of this node and wait for its training workers to leave.

    Args:
        seconds: time until the node is taken away.
        node: Ray's id of the node, where this machine has several.
    """
    here = [raylet for raylet in raylets() if node in (None, raylet.node)]
    if len(here) != 1:
        raise UserError(f"{len(here)} nodes of Ray run on this machine; give one of them by --node")
    drain(here[0], seconds)


if __name__ == "__main__":
    run_job(lambda: tyro.cli(main, prog="python -m hemodist.cluster.drain", description=filled(__doc__)))
