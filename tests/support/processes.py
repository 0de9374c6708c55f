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

import psutil

CHECKOUT = Path(__file__).parents[2]
MARK = "HEMODIST_TEST_MARK"

_marks: list[str] = []
"""Of the commands that were started and may not have ended."""


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


def end_all() -> None:
    """Kill what is left of all commands that `start` has started, so that a test that fails leaves nothing behind."""
    while _marks and (left := _marked(_marks)):
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)
    _marks.clear()


def _marked(marks: list[str]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) in marks:
                found.append(process)
    return found


def wait_for(text: str, log: Path, process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until the log holds a text."""
    deadline = time.monotonic() + seconds
    while text not in log.read_text(errors="replace"):
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < deadline, f"no {text!r} after {seconds} s:\n{log.read_text(errors='replace')}"
        time.sleep(0.05)


def interrupt(process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C to the whole group, as a terminal sends it; returns the exit code."""
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(timeout=60)
