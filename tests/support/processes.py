"""Find the processes that came out of a command, whoever their parent is by now."""

from __future__ import annotations

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


def start(arguments: list[object], cwd: Path, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start `python arguments...` as the leader of a process group of its own, as a terminal does; returns its mark."""
    mark = uuid.uuid4().hex
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
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(" ".join(process.cmdline())[:200])
        except psutil.Error:
            continue
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
