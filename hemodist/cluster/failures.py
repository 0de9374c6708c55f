"""Workers that were lost or have raised: what the user is told, whose node is left, and when the driver gives up."""

from __future__ import annotations

import math
import time
from typing import Any

import ray
from ray.train import UserCallback

from hemodist.cluster.gpu_faults import BrokenGpuError, Gpu
from hemodist.cluster.ray_internals import announce_end, is_dead_worker, leaving_nodes
from hemodist.cluster.worker_slots import Resources, slots_on
from hemodist.errors import UserError
from hemodist.events import AttemptStarted, Event, Note, Started, WorkersLost

_APART_SECONDS = 5.0
"""Reports less than this apart are of one failure: Ray's controller repeats a report every second while it waits for
the other workers of the group to end."""

_DRAIN_SECONDS = 600.0
"""Until a node with a broken GPU is taken out of the cluster; nothing starts on it from the notice on."""


class WorkersLostError(UserError):
    """The workers failed again and again without getting any further."""


class FailureReporter(UserCallback):  # type: ignore[misc]  # Ray has no annotations of its own
    """Runs in Ray Train's controller and posts which workers were lost, before the controller starts others.

    It also drains the node of a broken GPU, which the next workers would be given again.
    """

    def __init__(self, mailbox: Any, fewest: int, resources: Resources) -> None:
        """Nothing has happened yet.

        Args:
            mailbox: handle of the actor `Mailbox`.
            fewest: workers that the run goes on with.
            resources: what one worker reserves.
        """
        self._mailbox, self._fewest, self._resources = mailbox, fewest, resources

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray's controller when it finds workers that are dead or have raised."""
        gone = sorted(rank for rank, error in worker_exceptions.items() if is_dead_worker(error))
        raised = {rank: error for rank, error in worker_exceptions.items() if rank not in gone}
        if gone:  # what the others raise is that they cannot reach those
            cause = "worker " + ", ".join(map(str, gone)) + " is gone (killed, out of memory, or its node is lost)"
        else:
            cause = "; ".join(f"worker {rank}: {type(e).__name__}: {e}" for rank, e in sorted(raised.items())[:1])
        details = [note for error in raised.values() for note in getattr(error, "__notes__", [])]
        known = [error for error in raised.values() if isinstance(error, UserError)]
        for error in known:
            if isinstance(error, BrokenGpuError) and error.gpu:
                self._take_out(error.gpu)
        self._mailbox.put.remote(WorkersLost(cause, "".join(details[:1]), known[0] if known else None))

    def _take_out(self, gpu: Gpu) -> None:
        """Drain the node of a broken GPU, where the run can go on without it and it is not the head."""
        leaving = leaving_nodes()
        if gpu.node in leaving:  # told again and again, see `WorkersLost`
            return
        nodes = {each["NodeID"]: each["Resources"] for each in ray.nodes() if each["Alive"]}
        others = [has for name, has in nodes.items() if name not in leaving and name != gpu.node]
        if "node:__internal_head__" in nodes.get(gpu.node, {}) or slots_on(others, self._resources) < self._fewest:
            return
        address = ray.get_runtime_context().gcs_address
        refusal = announce_end(gpu.node, address, _DRAIN_SECONDS, f"{gpu.name} {gpu.uuid} has failed")
        said = f"is not given up: {refusal[-300:]}" if refusal else "takes no more work from this cluster"
        self._mailbox.put.remote(Note(f"{gpu.host} {said}, since {gpu.name} {gpu.uuid} has failed"))


class Failures:
    """Counts failed attempts since the last new checkpoint. An attempt is one start of a group of workers."""

    def __init__(self, most: int) -> None:
        """Start counting.

        Args:
            most: attempts that may fail in a row without a new checkpoint in between.
        """
        self._most = most
        self._failed = 0
        self._step = -1
        self._counted = False  # the failure of the present attempt
        self._heard = -math.inf

    def hear(self, event: Event) -> str | None:
        """Take an event into account; returns a note for the user, or None.

        Raises:
            UserError: the attempts are used up.
        """
        if isinstance(event, AttemptStarted):
            self._counted = False
        elif isinstance(event, Started) and event.step > self._step:  # there is a new checkpoint
            self._step, self._failed = event.step, 0
        elif isinstance(event, WorkersLost):
            now, before = time.monotonic(), self._heard
            self._heard = now
            # Workers that are lost before rank 0 has announced their attempt count as another attempt all the same.
            if self._counted and now - before < _APART_SECONDS:
                return None
            self._counted = True
            self._failed += 1
            if self._failed > self._most:
                raise event.error or WorkersLostError(self._final(event))
            return f"{event.cause.splitlines()[0]}; starting again ({self._failed} of {self._most} without progress)"
        return None

    def _final(self, event: WorkersLost) -> str:
        return (
            f"the workers failed {self._failed} times without a new checkpoint in between, the last time: "
            f"{event.cause}; look for what kills them (memory?), save more often with checkpoint.every_steps, or "
            f"allow more with scaling.max_failures, which is {self._most}\n{event.detail}"
        ).rstrip()
