"""How ranks and Ray Train's controller tell the driver what happens. Imports little, so that the actor starts fast."""

from __future__ import annotations

from typing import Any

import ray

from hemodist.events import Event, Failed


class Mailbox:
    """An actor on the driver's node that keeps events until the driver takes them.

    Events of one run as they are; of several runs, each with the name of its run.
    """

    def __init__(self) -> None:
        """No events yet."""
        self._events: list[Event | tuple[str, Event]] = []
        self._closed = False
        self._leave = False

    def put(self, event: Event | tuple[str, Event]) -> None:
        """Keep an event."""
        self._events.append(event)

    def take(self) -> list[Event | tuple[str, Event]]:
        """All events since the last call."""
        taken, self._events = self._events, []
        return taken

    def ask_to_leave(self, leave: bool) -> None:
        """Ask the ranks to save and leave, or ask no longer."""
        self._leave = leave

    def must_leave(self) -> bool:
        """Whether the driver asks the ranks to save and leave."""
        return self._leave

    def close(self) -> None:
        """Say that the driver has given up."""
        self._closed = True

    def is_closed(self) -> bool:
        """Whether the driver has given up, so that workers which are started again must not go on."""
        return self._closed


class Posted:
    """A `Tell` that posts events to a mailbox, and does not wait until they have arrived."""

    def __init__(self, mailbox: Any) -> None:
        """Keep the mailbox, a handle of the actor."""
        self._mailbox = mailbox

    def __call__(self, event: Event) -> None:
        """Post an event; only after a failure wait until it has arrived, since the worker ends then."""
        posted = self._mailbox.put.remote(event)
        if isinstance(event, Failed):
            ray.get(posted, timeout=30)

    def must_leave(self) -> bool:
        """Whether the driver asks the ranks to save and leave."""
        leave: bool = ray.get(self._mailbox.must_leave.remote())
        return leave

    def is_closed(self) -> bool:
        """Whether the driver has given up."""
        closed: bool = ray.get(self._mailbox.is_closed.remote())
        return closed
