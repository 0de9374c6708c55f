"""Tools beside the sharder: `python -m shards verify|show|phantom`. Exit code 1 where verify finds something wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from hemodist.job import filled, run_job

if TYPE_CHECKING:
    from rich.console import Console

EXIT_PROBLEMS = 1

Place = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]


@dataclass(frozen=True)
class Verify:
    """Check a finished data set: every digest, offset, checksum, image header, label and count; name odd series.

    Attributes:
        dataset: path or URI of the data set.
        quick: sizes, index and counts only; no shard is read.
    """

    dataset: Place
    quick: bool = False


@dataclass(frozen=True)
class Show:
    """Print what a data set holds, and write a contact sheet: slices of some series, in each window, with their labels.

    Attributes:
        dataset: path or URI of the data set.
        sheet: where the sheet goes.
        count: samples on it.
        rejected: list every file that is no sample, with its reason; no sheet.
    """

    dataset: Place
    sheet: Path = Path("contact_sheet.png")
    count: int = 24
    rejected: bool = False


@dataclass(frozen=True)
class Phantom:
    """Write synthetic head CT in RSNA's own layout, for demonstrations and tests.

    Attributes:
        out: folder of the data set.
        slices: number of slices in total.
        seed: seed of everything random; the same one gives the same bytes for any number of workers.
        size: rows and columns of a slice.
        workers: processes; by default one a core.
        masks: write the truth masks too.
    """

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    slices: int = 1500
    seed: int = 0
    size: int = 512
    workers: int | None = None
    masks: bool = False


Command = (
    Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Phantom, tyro.conf.subcommand("phantom")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: of the command line; by default the program's own.

    Returns:
        The exit code.
    """
    command: Verify | Show | Phantom = tyro.cli(
        Command,
        prog="python -m shards",
        args=arguments,
        description=filled(__doc__),
    )

    from rich.console import Console

    console = Console(highlight=False, markup=False)  # paths may hold brackets
    if isinstance(command, Verify):
        return run_verify(command, console)
    if isinstance(command, Show):
        return run_show(command, console)
    return run_phantom(command, console)


def run_verify(command: Verify, console: Console) -> int:
    """Check a data set and print what is wrong."""
    from rich.progress import Progress

    from hemodist.storage.store import Store
    from shards.inspect import verify

    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("shards", total=None)
        report = verify.verify(
            Store.open(command.dataset),
            quick=command.quick,
            tell=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    for line in (*report.remarks, *report.problems):
        console.print(line, soft_wrap=True)
    shards = "1 shard" if report.shards == 1 else f"{report.shards} shards"
    checked = f"{shards}, {report.samples} samples, {report.bytes} bytes read"
    if report.problems:
        console.print(f"{command.dataset}: {len(report.problems)} problems; {checked}", soft_wrap=True)
        return EXIT_PROBLEMS
    but = f" as stored, but {len(report.remarks)} remarks on series above" if report.remarks else ""
    console.print(f"{command.dataset}: sound{but}; {checked}", soft_wrap=True)
    return 0


def run_show(command: Show, console: Console) -> int:
    """Print the summary, and write the contact sheet or list what is no sample."""
    from rich.table import Table

    from hemodist.dataset.dataset import DataSet
    from hemodist.dataset.manifest import read_manifest
    from hemodist.storage.store import Store
    from shards.building import build
    from shards.inspect import rejections, show

    store = Store.open(command.dataset)
    manifest = read_manifest(store)
    table = Table(show_header=False)
    for name, value in build.summary(manifest).items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        for inner, count in entries:
            text = f"{count:,}" if isinstance(count, int) else str(count)
            if isinstance(count, dict):
                text = ", ".join(f"{k} {v:,}" for k, v in count.items())
            table.add_row(f"{name} {inner}".rstrip(), text)
    console.print(table)
    rejected = rejections.read(store)
    if command.rejected:
        for line in rejections.lines(rejected):
            console.print(line, soft_wrap=True)
        return 0
    if rejected:
        console.print(rejections.table(rejected), soft_wrap=True)
    dataset = DataSet.open(command.dataset)
    folder, name = command.sheet.resolve().parent, command.sheet.name
    Store.open(folder).write(name, show.contact_sheet(dataset, command.count))
    console.print(f"contact sheet: {command.sheet}", soft_wrap=True)
    return 0


def run_phantom(command: Phantom, console: Console) -> int:
    """Write a synthetic data set."""
    from rich.progress import Progress

    from shards.phantom import generate

    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("slices", total=command.slices)
        made = generate.generate(
            command.out,
            slices=command.slices,
            seed=command.seed,
            size=command.size,
            workers=command.workers,
            masks=command.masks,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    console.print(f"{made.slices} slices of {made.patients} patients in {made.images}", soft_wrap=True)
    for label, count in made.counts.items():
        console.print(f"  {label}: {count} ({count / made.slices:.1%})")
    return 0


if __name__ == "__main__":
    run_job(main, goes_on="")
