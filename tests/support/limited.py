"""Commands that may take 2 GB and 60 s of CPU time more than an interpreter that has imported the library."""

from __future__ import annotations

import os
import resource
import runpy
import signal
import sys
from pathlib import Path

from tests.support.forks import fork

MORE_BYTES = 2_000_000_000
MORE_SECONDS = 60
"""Of CPU time; a machine may be slow, and what hangs takes more of it."""

MOST_SECONDS = 900
"""By the clock, for what hangs without computing; far more than any of these commands takes on a busy machine."""


def run_limited(words: list[object], cwd: Path, log: Path) -> tuple[int, str]:
    """Run `python words...`; returns its exit code (negative where a signal ended it) and what it has printed."""
    process = fork([Path(__file__), *words], cwd, log)
    process.process.join(MOST_SECONDS)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait(), log.read_text(errors="replace")


def complaint(code: int, printed: str, allowed: tuple[int, ...] = (0, 2)) -> str | None:
    """What is wrong with how a command ended; None where it did its work, or said in a line why not."""
    if code not in allowed:
        return f"exit code {code}:\n{printed[-3000:]}"
    return f"a traceback:\n{printed[-3000:]}" if "Traceback" in printed else None


def _limit() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    data = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (data + MORE_BYTES, most))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + MORE_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


if __name__ == "__main__":
    _limit()
    del sys.argv[0]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(sys.argv[0]).parent))
        runpy.run_path(sys.argv[0], run_name="__main__")
