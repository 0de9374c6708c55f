"""What a person sees while a job runs: progress, tables of facts and of epochs."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
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
                listed = (
                    ", ".join(f"{k} {_shown(v)}" for k, v in counts.items()) if isinstance(counts, Mapping) else counts
                )
                table.add_row(f"{name} {inner}", str(listed))
        else:
            table.add_row(name, _shown(value))
    return table


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


class TrainingView:
    """A `Tell` that shows a bar and a line an epoch, or plain lines where there is no terminal; of one run or of many.

    Attributes:
        step: the last optimizer step that was heard of.
    """

    def __init__(self, runs: Sequence[str] = ()) -> None:
        """Nothing is shown before the `with` block.

        Args:
            runs: names of the runs that tell, each through its `of`; none where one run tells, through the view itself.
        """
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(
            *columns, TextColumn("{task.fields[info]}"), console=console, disable=not console.is_terminal
        )
        self._width, self._runs, self._ended = max(map(len, runs), default=0), len(runs), 0
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._at: dict[str, str] = {}  # by run
        self._header_shown = False
        self.step = 0
        self._last_plain = time.monotonic()

    def __enter__(self) -> TrainingView:
        """Start the display."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the display, leaving the lines."""
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show an event of the only run."""
        self._show("", event)

    def of(self, run: str) -> Tell:
        """A `Tell` for one of several runs."""
        return partial(self._show, run)

    def ended(self, run: str, failure: str) -> None:
        """Say how one of several runs has ended; an empty `failure` is a good end."""
        self._ended += 1
        self._at.pop(run, None)
        for key in [key for key in self._tasks if key[0] == run]:
            self._progress.remove_task(self._tasks.pop(key))
        text = f"failed: {failure}" if failure else "finished"
        console.print(f"{self._column(run)}{text} ({self._ended} of {self._runs})", soft_wrap=True)

    def _column(self, run: str) -> str:
        return f"{run:<{self._width}}  " if self._runs else ""

    def _show(self, run: str, event: Event) -> None:
        match event:
            case EpochDone():
                self.step = int(event.row["step"])
                if not self._header_shown:
                    console.print(self._column("run") + history_header(), style="bold", soft_wrap=True)
                    self._header_shown = True
                console.print(self._column(run) + format_history_row(event.row), soft_wrap=True)
                if (run, "evaluating") in self._tasks:
                    self._progress.update(self._tasks[run, "evaluating"], visible=False)
            case StepDone():
                self.step = event.step
                shares = f"data {event.data_wait_share:.0%} device {event.device_share:.0%}"
                shares += f" ranks {event.communication_share:.0%}" if event.communication_share else ""
                info = f"loss {event.loss:.4f}  {event.images_per_s:.0f} images/s  {shares}"
                self._advance(run, "training", event.step, event.total, info)
            case EvaluationProgress():
                self._advance(run, "evaluating", event.done, event.total, "")
            case Note():
                console.print(f"{run or 'note'}: {event.text}", soft_wrap=True)
            case AttemptStarted() | WorkersLost() | Started() | Saved() | Failed():
                pass  # what matters of them is said as a note, or raised
            case _:
                assert_never(event)

    def _advance(self, run: str, what: str, done: int, total: int, info: str) -> None:
        title = f"{run} {what}".lstrip()
        if (run, what) not in self._tasks:
            self._tasks[run, what] = self._progress.add_task(title, total=total, info=info)
        self._progress.update(self._tasks[run, what], completed=done, total=total, info=info, visible=True)
        self._at[run] = f"{title} {done}/{total} {info}".rstrip()
        if not console.is_terminal and time.monotonic() - self._last_plain > _PLAIN_SECONDS:
            self._last_plain = time.monotonic()
            console.print(", ".join(self._at.values()), soft_wrap=True)
