"""Runs the sharder's bench and makes the table and the plot of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hemodist.bench.rounds import Lap, Outcome, Rate, plot
from shards.bench import ways
from shards.phantom import generate


def bench_sharder(work: Path, *, quick: bool, source: Path | None = None) -> Outcome:
    """The sharder beside the machine's limit and beside a notebook's way.

    Args:
        work: folder for a phantom.
        quick: fewer slices and rounds.
        source: folder of uncompressed 512 x 512 slices; a phantom is made where there is none.
    """
    slices, repeats, rounds = (128, 4, 3) if quick else (256, 4, 7)  # half a shard, a shard of the usual 1,024 slices
    source = source or generate.generate(work / "phantom", slices=slices).images
    rates = ways.measure(source, rounds, repeats=repeats)
    ratios = ways.ratios(rates)
    return Outcome(
        f"sharder, median of {rounds} rounds",
        ["way", "processes", "slices/s", "lowest", "highest"],
        [
            [rate.way, *(f"{v:,.0f}" for v in (rate.processes, rate.median, min(rate.rounds), max(rate.rounds)))]
            for rate in rates
        ],
        {name: f"{value:.2f}" for name, value in ratios.items()},
        {"rounds": rounds, "rates": [asdict(rate) | {"median": rate.median} for rate in rates], "ratios": ratios},
        ("hemodist", "numpy", "pillow", "pydicom", "pyarrow"),
        lambda path: plot([_bar(rate) for rate in rates], "Sharding", "slices a second", path),
    )


def _bar(rate: ways.WayRate) -> Rate:
    laps = tuple(Lap(value, 0.0) for value in rate.rounds)
    return Rate(f"{rate.way}, {rate.processes} processes", laps, {})
