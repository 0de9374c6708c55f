"""Workers that were lost or have raised: what the user is told, and when the driver gives up."""

from __future__ import annotations

import math
import time
from typing import Any

from ray.train import UserCallback

from hemodist.cluster.ray_internals import is_dead_worker
from hemodist.errors import UserError
from hemodist.events import AttemptStarted, Event, Started, WorkersLost

_APART_SECONDS = 5.0
"""Reports less than this apart are of one failure: Ray's controller repeats a report every second while it waits for
the other workers of the group to end."""


class WorkersLostError(UserError):
    """The workers failed again and again without getting any further."""


class FailureReporter(UserCallback):  # type: ignore[misc]  # Ray has no annotations of its own
    """Runs in Ray Train's controller and posts which workers were lost, before the controller starts others."""

    def __init__(self, mailbox: Any) -> None:
        """Keep the mailbox, a handle of the actor `Mailbox`."""
        self._mailbox = mailbox

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
        self._mailbox.put.remote(WorkersLost(cause, "".join(details[:1]), known[0] if known else None))


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
