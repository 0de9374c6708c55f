"""Find the processes that came out of a command, whoever their parent is by now."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Protocol

import psutil

CHECKOUT = Path(__file__).parents[2]
MARK = "HEMODIST_TEST_MARK"

_marks: list[str] = []
"""Of the commands that were started and may not have ended."""

_forked: list[Leader] = []
"""Likewise, of those that were forked: a fork has its parent's environment, and no mark."""


class Leader(Protocol):
    """A process that leads a session of its own."""

    @property
    def pid(self) -> int:
        """Of the process, and of its session."""

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""


def start(arguments: list[object], cwd: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start `python arguments...` as the leader of a process group of its own, as a terminal does; returns its mark."""
    mark = uuid.uuid4().hex
    _marks.append(mark)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=cwd,
            env=os.environ | {MARK: mark},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            # Started in the background of a script, this process ignores SIGINT, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    return process, mark


def alive(mark: str) -> list[str]:
    """Command lines of the running processes that carry the mark in their environment."""
    found = []
    for process in _marked([mark]):
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(process.cmdline())[:200])
    return found


def in_session(leader: int) -> list[psutil.Process]:
    """What still runs in a session."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_with_the_module(leader: Leader) -> None:
    """Let `end_all` kill what a leader has in its session, if it runs until then: later its id may be another's."""
    _forked.append(leader)


def end_all() -> None:
    """Kill what is left of all commands that were started, so that a test that fails leaves nothing behind."""
    left = [process for leader in _forked if leader.poll() is None for process in in_session(leader.pid)]
    while left := left or (_marked(_marks) if _marks else []):
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)
        left = []
    _marks.clear()
    _forked.clear()


def _marked(marks: list[str]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) in marks:
                found.append(process)
    return found


def wait_for(text: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the log holds a text, as long as the process runs: only pytest's own limit is a time."""
    while text not in log.read_text(errors="replace"):
        assert process.poll() is None, log.read_text(errors="replace")
        time.sleep(0.05)


def interrupt(process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C to the whole group, as a terminal sends it; returns the exit code."""
    os.killpg(process.pid, signal.SIGINT)
    return process.wait()
