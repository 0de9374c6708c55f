"""SIGTERM, the signal that asks a job to end: its handler, and whether it has come."""

from __future__ import annotations

import sys

_come: list[int] = []


def terminated(signum: int, frame: object) -> None:
    """Handle SIGTERM: end as after Ctrl-C, cleaning up on the way."""
    _come.append(signum)
    sys.exit(128 + signum)


def was_terminated() -> bool:
    """Whether the handler was called. The exit code cannot tell: it becomes 1 where Ray was waiting for something."""
    return bool(_come)
