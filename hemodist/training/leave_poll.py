"""Whether the ranks must leave, asked every few seconds and not at every step, since the question is a barrier."""

from __future__ import annotations

import time

from hemodist.world import World

POLL_SECONDS = 2.0
"""Between two questions. Clouds announce the end of a node 30 to 120 s ahead."""


class LeavePoll:
    """Asks at the same steps on all ranks: rank 0's clock chooses the next one, and tells it where they meet anyway."""

    def __init__(self, world: World, step: int) -> None:
        """Ask first after the next step.

        Args:
            world: the ranks.
            step: optimizer updates made so far.
        """
        self._world = world
        self._stride = 1
        self._asked, self._clock = step, time.monotonic()

    def must_leave(self, step: int, *, at_once: bool = False) -> bool:
        """Whether to save and leave after `step`; the same answer on every rank.

        Args:
            step: optimizer updates made.
            at_once: ask now, whatever the clock says; the same on every rank.
        """
        ask = self._world.must_leave
        if ask is None or not (at_once or step >= self._asked + self._stride):
            return False
        leaving = ask()
        seconds = (time.monotonic() - self._clock) / max(step - self._asked, 1)
        # At most twice as far as the last time, so that one odd measurement cannot put the next question off for long.
        stride = min(max(int(POLL_SECONDS / max(seconds, 1e-6)), 1), 2 * self._stride)
        leave, self._stride = self._world.broadcast((leaving, stride))
        self._asked, self._clock = step, time.monotonic()
        return bool(leave)
