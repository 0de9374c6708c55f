"""Measure hemodist on this machine: `python jobs/bench.py sharder [--quick]`. Prints a table and writes JSON."""

from __future__ import annotations

import dataclasses
import datetime
import json
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table

from hemodist.cluster import no_process_left_behind
from hemodist.store import Store
from hemodist.terminal import console, facts_table, run_job
from shards import bench, phantom


def main(
    what: Annotated[Literal["sharder"], tyro.conf.Positional],
    source: Path | None = None,
    output: Path = Path("bench_sharder.json"),
    quick: bool = False,
) -> int:
    """Measure.

    Args:
        what: sharder, beside the machine's limit and beside a notebook's way.
        source: folder of uncompressed 512 x 512 slices; by default a phantom made for it.
        output: where the figures go.
        quick: fewer slices and rounds, for a first look.
    """
    slices, rounds = (60, 3) if quick else (300, 7)
    with no_process_left_behind(), tempfile.TemporaryDirectory() as folder:
        if source is None:
            source = phantom.generate(Path(folder) / "phantom", slices=slices).images
        rates = bench.measure(source, rounds)
    ratios = bench.ratios(rates)
    table = Table("way", "processes", "slices/s", "lowest", "highest", title=f"{what}, median of {rounds} rounds")
    for rate in rates:
        table.add_row(rate.way, *(f"{value:,.0f}" for value in (rate.processes, rate.median, rate.low, rate.high)))
    console.print(table)
    console.print(facts_table("ratios of the medians", {name: f"{value:.2f}" for name, value in ratios.items()}))
    versions = {name: metadata.version(name) for name in ("hemodist", "numpy", "pillow", "pydicom", "pyarrow")}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    figures = {"what": what, "date": now, "rounds": rounds, "machine": bench.machine(), "versions": versions}
    figures |= {"rates": [dataclasses.asdict(rate) for rate in rates], "ratios": ratios}
    Store.open(output.resolve().parent).write(output.name, (json.dumps(figures, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    run_job(lambda: tyro.cli(main, description=__doc__))
