"""Several ways measured in turn, round by round, so that all meet the same machine; and what is kept of it."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.table import Table
from scipy.stats import binom

from hemodist.storage.store import Store


@dataclass(frozen=True)
class Lap:
    """One run of one way: items a second by the clock, and CPU time of all its processes in milliseconds an item."""

    rate: float
    cpu_ms: float


@dataclass(frozen=True)
class Rate:
    """How fast one way is.

    Attributes:
        way: its name.
        laps: one a round.
        facts: what else was measured, by name with the unit.
        first_batches: seconds until a loader's first batch, one a start; empty for what is no loader.
    """

    way: str
    laps: tuple[Lap, ...]
    facts: Mapping[str, float]
    first_batches: tuple[float, ...] = ()

    @property
    def rates(self) -> list[float]:
        """Items a second, one a round."""
        return [lap.rate for lap in self.laps]

    @property
    def median(self) -> float:
        """The middle of the rounds, in items a second."""
        return statistics.median(self.rates)

    @property
    def cpu_ms(self) -> float:
        """The middle of the rounds, in milliseconds of CPU time an item."""
        return statistics.median(lap.cpu_ms for lap in self.laps)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        middle = {"way": self.way, "median": self.median, "low": min(self.rates), "high": max(self.rates)}
        return middle | {"cpu_ms": self.cpu_ms, "laps": [[lap.rate, lap.cpu_ms] for lap in self.laps], **self.facts}


@dataclass(frozen=True)
class Outcome:
    """What a bench has found.

    Attributes:
        title: of the table.
        columns: their heads.
        rows: of the table.
        ratios: by name, as shown; with the bound where one is set.
        figures: the same and more as JSON values.
        packages: whose versions matter.
        draw: writes the plot, a PNG.
        notes: what could not be measured and why.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    ratios: Mapping[str, str]
    figures: Mapping[str, Any]
    packages: Sequence[str]
    draw: Callable[[Path], None]
    notes: Sequence[str] = field(default=())

    def table(self) -> Table:
        """For the terminal."""
        table = Table(*self.columns, title=self.title)
        for row in self.rows:
            table.add_row(*row)
        return table


def measure(ways: Mapping[str, Callable[[], Lap]], rounds: int) -> dict[str, tuple[Lap, ...]]:
    """Run each way once a round.

    The order turns by one place from round to round, so that no way always follows the same other.

    Args:
        ways: by name, a function that runs once.
        rounds: that count; one before them warms up.

    Returns:
        The lap of each round by name.
    """
    laps: dict[str, list[Lap]] = {name: [] for name in ways}
    names = list(ways)
    for round_ in range(rounds + 1):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            lap = ways[name]()
            if round_:
                laps[name].append(lap)
    return {name: tuple(values) for name, values in laps.items()}


def ratio(one: Sequence[float], other: Sequence[float]) -> float:
    """The median over the rounds of one way's rate over another's; what slows a whole round cancels out.

    >>> ratio([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    2.0
    """
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


@dataclass(frozen=True)
class Ratio:
    """One way's rate over another's, or the like, over rounds or starts.

    Attributes:
        values: one a round.
        bound: what was aimed at; None where nothing was.
        at_most: whether less is better.
    """

    values: tuple[float, ...]
    bound: float | None = None
    at_most: bool = False

    @classmethod
    def of(cls, one: Sequence[float], other: Sequence[float], bound: float | None = None, **more: bool) -> Ratio:
        """Of two ways that were measured in the same rounds."""
        return cls(tuple(a / b for a, b in zip(one, other, strict=True)), bound, **more)

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.values)

    @property
    def interval(self) -> tuple[float, float]:
        """For the median, with a confidence of 95 % or more, whatever the distribution; under 6 rounds the range.

        >>> Ratio(tuple(map(float, range(1, 16)))).interval
        (4.0, 12.0)
        """
        cut = max(int(binom.ppf(0.025, len(self.values), 0.5)) - 1, 0)
        ordered = sorted(self.values)
        return ordered[cut], ordered[-1 - cut]

    @property
    def held(self) -> bool | None:
        """Whether the median keeps the bound; None where there is none."""
        if self.bound is None:
            return None
        return self.median <= self.bound if self.at_most else self.median >= self.bound

    def __str__(self) -> str:
        low, high = self.interval
        text = f"{self.median:#.3g} ({low:#.3g} to {high:#.3g})"
        if self.bound is None:
            return text
        return f"{text}, at {'most' if self.at_most else 'least'} {self.bound:g}: {'held' if self.held else 'NOT HELD'}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"median": self.median, "interval": self.interval, "bound": self.bound, "held": self.held}


def machine() -> dict[str, str | int]:
    """Processor, CPUs that may be used, memory in GiB, system."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": names[0] if names else platform.processor() or "unknown",
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def commit() -> str:
    """The checkout's commit, marked where files differ from it; `unknown` outside a checkout."""
    here = Path(__file__).parent
    try:
        asked = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(asked, cwd=here, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write(what: str, outcome: Outcome, folder: Path) -> Path:
    """Write `bench_WHAT.json`, with date, commit, machine and versions, and `bench_WHAT.png`; returns the former."""
    values = {
        "what": what,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": {name: _version(name) for name in outcome.packages},
        **outcome.figures,
    }
    folder.mkdir(parents=True, exist_ok=True)
    store = Store.open(folder)
    store.write(f"bench_{what}.json", (json.dumps(values, indent=2) + "\n").encode())
    outcome.draw(store.local(f"bench_{what}.png"))
    return store.local(f"bench_{what}.json")


def plot(rates: Sequence[Rate], title: str, unit: str, path: Path) -> None:
    """A bar a way, fastest first, with the span of its rounds; a PNG."""
    from matplotlib.figure import Figure

    ordered = sorted(rates, key=lambda rate: rate.median)
    middles = [rate.median for rate in ordered]
    low = [rate.median - min(rate.rates) for rate in ordered]
    high = [max(rate.rates) - rate.median for rate in ordered]
    figure = Figure(figsize=(8, 0.6 + 0.45 * len(ordered)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh([rate.way for rate in ordered], middles, xerr=[low, high], capsize=3)
    for bar, rate in zip(bars, ordered, strict=True):
        bar.set_color("tab:red" if rate.way.startswith("hemodist") else "tab:gray")
    axes.set_xlabel(unit)
    axes.set_title(title)
    figure.savefig(path, dpi=120)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
