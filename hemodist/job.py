"""The signal that asks a process to end, and whether it has come."""

from __future__ import annotations

import sys

_come: list[int] = []


def terminated(signum: int, frame: object) -> None:
    """Handler of SIGTERM: end as after Ctrl-C, cleaning up on the way."""
    _come.append(signum)
    sys.exit(128 + signum)


def was_terminated() -> bool:
    """Whether the handler was called; the code of the exit does not tell, since a wait within Ray makes 1 of it."""
    return bool(_come)
