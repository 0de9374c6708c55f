"""How a job begins and ends: quickly, and with an exit code that says why.

A job reads its command line before it imports what computes: torch, DALI, Ray and W&B take seconds, which nobody
should wait for after a mistyped flag. So jobs, and the modules that hold their flags, import at the top only what is
quick, and the rest inside their functions.
"""

from __future__ import annotations

import inspect
import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from typing import NoReturn

from hemodist.errors import UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
"""As the shell has them: 128 + SIGINT and 128 + SIGTERM."""

WIDEST = 120
"""Columns of text in a job's help, at most."""

_come: list[int] = []


def terminated(signum: int, frame: object) -> None:
    """Handle SIGTERM: end as after Ctrl-C, cleaning up on the way."""
    _come.append(signum)
    sys.exit(128 + signum)


def was_terminated() -> bool:
    """Whether the handler was called. The exit code cannot tell: it becomes 1 where Ray was waiting for something."""
    return bool(_come)


def run_job(main: Callable[[], int | None], *, goes_on: str = "the same command begins anew") -> NoReturn:
    """Run a job's `main` and exit: 0 or its code, 2 for a user's error, 130 after Ctrl-C, 143 after SIGTERM.

    Args:
        main: the job.
        goes_on: what of it is kept where it is interrupted; empty where the job has said so itself.
    """
    try:
        sys.exit(main() or 0)
    except UserError as error:
        _say(f"error: {error}", "bold red")
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        _say("interrupted" + (f"; {goes_on}" if goes_on else ""))
        _leave_at_once(EXIT_INTERRUPTED)
    except SystemExit as ended:
        if was_terminated() or ended.code == EXIT_TERMINATED:
            _leave_at_once(EXIT_TERMINATED)
        raise


def filled(text: str | None) -> str:
    """A docstring for the head of a job's help: its paragraphs broken anew where a line of the terminal ends."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    # Without the indentation, tyro would join the lines again.
    words = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n\n".join(words.fill(part) for part in inspect.cleandoc(text or "").split("\n\n"))


def _say(text: str, style: str | None = None) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False, markup=False).print(text, style=style, soft_wrap=True)  # paths hold brackets


def _leave_at_once(code: int) -> NoReturn:
    """End without waiting for threads, which may hang in a call to a cluster that is gone; clean-up is done by now."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
