"""What a person sees while a job runs: progress, tables of facts and of epochs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from hemodist.events import (
    AttemptStarted,
    EpochDone,
    EvaluationProgress,
    Event,
    Failed,
    Note,
    Saved,
    Started,
    StepDone,
    Tell,
    WorkersLost,
)
from hemodist.reports.epoch_table import format_history_row, history_header

_PLAIN_SECONDS = 20.0
"""Between two progress lines where the output is no terminal."""

_PLAIN_WIDTH = 120
"""Columns where the output is no terminal, such as a job's log."""

# Without markup: paths and messages may hold brackets.
console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
errors = Console(stderr=True, highlight=False, markup=False)


def facts_table(title: str, facts: Mapping[str, Any]) -> Table:
    """Names and values side by side; a mapping of mappings becomes a line an entry."""
    table = Table(title=title, show_header=False, title_justify="left", title_style="bold")
    for name, value in facts.items():
        if isinstance(value, Mapping):
            for inner, counts in value.items():
                listed = ", ".join(f"{k} {v:,}" for k, v in counts.items()) if isinstance(counts, Mapping) else counts
                table.add_row(f"{name} {inner}", str(listed))
        else:
            table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    return table


class TrainingView:
    """Shows what one run tells, or several: a line an epoch, and bars where there is a terminal, else plain lines.

    It is a `Tell` for a single run; `of` gives one for each of several.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        """Nothing is shown before the `with` block.

        Args:
            names: of several runs; lines then begin with the run's.
        """
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(
            *columns, TextColumn("{task.fields[info]}"), console=console, disable=not console.is_terminal
        )
        self._width, self._runs, self._done = max(map(len, names), default=0), len(names), 0
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._at: dict[str, str] = {}
        self._header_shown = False
        self._last_plain = time.monotonic()

    def __enter__(self) -> TrainingView:
        """Start the display."""
        self._progress.start()
        return self

    def __exit__(self, *details: object) -> None:
        """Stop the display, leaving the lines."""
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show an event of the only run."""
        self._show("", event)

    def of(self, name: str) -> Tell:
        """A `Tell` for one run of several."""
        return lambda event: self._show(name, event)

    def ended(self, name: str, failure: str) -> None:
        """Say how one run of several has ended."""
        self._done += 1
        self._at.pop(name, None)
        for key in [key for key in self._tasks if key[0] == name]:
            self._progress.remove_task(self._tasks.pop(key))
        self._print(name, f"{f'failed: {failure}' if failure else 'finished'} ({self._done} of {self._runs})")

    def _show(self, name: str, event: Event) -> None:
        match event:
            case EpochDone():
                if not self._header_shown:
                    self._print("run", history_header(), style="bold")
                    self._header_shown = True
                self._print(name, format_history_row(event.row))
                if (name, "evaluating") in self._tasks:
                    self._progress.update(self._tasks[name, "evaluating"], visible=False)
            case StepDone():
                info = f"loss {event.loss:.4f}  {event.images_per_s:.0f} images/s"
                self._advance(name, "training", event.step, event.total, info)
            case EvaluationProgress():
                self._advance(name, "evaluating", event.done, event.total, "")
            case Note():
                console.print(f"{name or 'note'}: {event.text}", soft_wrap=True)
            case AttemptStarted() | WorkersLost() | Started() | Saved() | Failed():
                pass  # what matters of them is said as a note, or raised
            case _:
                assert_never(event)

    def _print(self, name: str, text: str, style: str | None = None) -> None:
        console.print(f"{name:<{self._width}}  {text}" if self._runs else text, style=style, soft_wrap=True)

    def _advance(self, name: str, kind: str, done: int, total: int, info: str) -> None:
        if (name, kind) not in self._tasks:
            self._tasks[name, kind] = self._progress.add_task(f"{name} {kind}".strip(), total=total, info=info)
        self._progress.update(self._tasks[name, kind], completed=done, total=total, info=info, visible=True)
        self._at[name] = f"{name} {kind} {done}/{total} {info}".strip()
        if not console.is_terminal and time.monotonic() - self._last_plain > _PLAIN_SECONDS:
            self._last_plain = time.monotonic()
            console.print(", ".join(self._at.values()), soft_wrap=True)
