"""The sharder's progress bar: slices a second, rejected files, time left. Without a terminal it prints lines."""

from __future__ import annotations

import time
from types import TracebackType

from rich import progress as bars
from rich.console import Console

from shards.packing.task import TaskResult

_PLAIN_SECONDS = 20.0
"""Between two lines where the output is no terminal."""


class Progress:
    """Counts and shows the results of tasks. It is used in a `with` block and called with each result.

    Args:
        files: source files in all.
        shards: shards in all.
        console: where it is shown.
    """

    def __init__(self, files: int, shards: int, console: Console) -> None:
        self._console = console
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeRemainingColumn(),
            bars.TextColumn("{task.fields[info]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("slices", total=files, info="")
        self._files, self._shards = files, shards
        self._done = self._written = self._rejected = self._resumed = self._finished = 0
        self._start = self._last_plain = time.monotonic()

    def __enter__(self) -> Progress:
        """Start the display."""
        self._bar.start()
        self._start = self._last_plain = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the display, and say how fast it went."""
        self._bar.stop()
        if kind is None:
            seconds = time.monotonic() - self._start
            self._console.print(
                f"{self._finished} {'shard' if self._finished == 1 else 'shards'}, {self._info()}, {seconds:.1f} s"
            )

    def __call__(self, result: TaskResult) -> None:
        """Count a task."""
        files = result.samples + result.rejected
        self._done += files
        self._finished += 1
        self._rejected += result.rejected
        if result.resumed:
            self._resumed += 1
        else:
            self._written += files
        self._bar.update(self._task, completed=self._done, info=self._info())
        if not self._console.is_terminal and time.monotonic() - self._last_plain > _PLAIN_SECONDS:
            self._last_plain = time.monotonic()
            self._console.print(f"{self._done}/{self._files} slices, {self._info()}")

    def facts(self) -> dict[str, float]:
        """Seconds since the start, and slices a second over the shards that were written."""
        seconds = time.monotonic() - self._start
        return {"seconds": seconds, "slices/s": self._written / max(1e-9, seconds)}

    def _info(self) -> str:
        text = (
            f"{self.facts()['slices/s']:.1f} slices/s, {self._rejected} rejected, shard {self._finished}/{self._shards}"
        )
        return f"{text}, {self._resumed} there already" if self._resumed else text
