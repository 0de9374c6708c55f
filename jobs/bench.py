"""Measure hemodist beside its peers on this machine: `python jobs/bench.py loader [--quick]`."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hemodist.config.fields import check_numbers
from hemodist.job import filled, run_job


def main(
    what: Annotated[
        Literal[
            "sharder", "loader", "plan", "start", "train", "recipes", "recovery", "settings", "quality", "gpu", "all"
        ],
        tyro.conf.Positional,
    ],
    output: Path = Path(),
    quick: bool = False,
    source: Path | None = None,
    cores: int = 2,
    device: Literal["cpu", "cuda"] = "cpu",
    size: int = 256,
    streaming_python: str | None = None,
    fastai_python: str | None = None,
) -> int:
    """Measure, print a table and ratios, and write bench_WHAT.json and bench_WHAT.png.

    Args:
        what: sharder, loader, plan (and shard cache), start (the first step), train (the loop), recipes (each one's
            training), recovery (after lost workers and nodes), settings (of a GPU), or all of these in turn, the last
            and the recipes on a GPU only. quality: whole trainings beside a plain PyTorch loop's and fastai's, with
            three seeds; hours on two cores. gpu: the tests that need one, loader, train, recipes and settings, into
            bench_gpu.md.
        output: folder for the figures.
        quick: fewer images and rounds, for a first look.
        source: for the sharder, a folder of uncompressed 512 x 512 slices; for quality, a finished data set of JPEGs.
            A phantom is made where there is none.
        cores: CPUs of each of the loader's ways.
        device: where the loader's batches must be, and what trains.
        size: side of the loader's images, in pixels.
        streaming_python: Python of an environment with mosaicml-streaming; made by uv where there is none.
        fastai_python: likewise, with fastai.
    """
    check_numbers(cores=(cores, 1, 1024), size=(size, 16, 4096))

    from hemodist.bench import on_gpu
    from hemodist.bench.quality import bench_quality
    from hemodist.bench.recovery import bench_recovery
    from hemodist.bench.report import bench_loader, bench_plan, bench_start
    from hemodist.bench.rounds import write
    from hemodist.bench.systems import bench_systems
    from hemodist.bench.training import bench_train
    from hemodist.cluster.session import no_process_left_behind
    from hemodist.reports.terminal import console, facts_table
    from shards.bench import data
    from shards.bench.report import bench_sharder

    if what in ("gpu", "settings"):
        on_gpu.check_gpu()
        device = "cuda"
    with no_process_left_behind(), tempfile.TemporaryDirectory(prefix="hemodist-bench-") as folder:
        work = Path(folder)
        many = partial(data.make, work / "many", slices=128 if quick else 256, names=16, size=size)
        whole = partial(data.make, work / "whole", slices=300 if quick else 1500, names=1, size=128)
        few = partial(data.make, work / "few", slices=120, names=1)
        benches = {
            "sharder": lambda: bench_sharder(work, quick=quick, source=source),
            "loader": lambda: bench_loader(many(), work, quick, cores, device, streaming_python),
            "plan": lambda: bench_plan(many(), work, quick=quick),
            "start": lambda: bench_start(few(), work, quick=quick),
            "train": lambda: bench_train(few(), work, quick=quick, device=device),
            "recipes": lambda: bench_systems(few(), work, quick=quick, device=device),
            "recovery": lambda: bench_recovery(few(), work, quick=quick),
            "quality": lambda: bench_quality(source or whole(), work, quick=quick, fastai_python=fastai_python),
            "settings": lambda: on_gpu.bench_settings(on_gpu.cases(few(), work), quick=quick),
        }
        groups = {
            "all": [
                name
                for name in benches
                if name != "quality" and (name not in ("recipes", "settings") or device == "cuda")
            ],
            "gpu": ["loader", "train", "recipes", "settings"],
        }
        tested = on_gpu.run_tests(output) if what == "gpu" else None
        outcomes = {}
        for name in groups.get(what, [what]):
            outcomes[name] = outcome = benches[name]()
            console.print(outcome.table(), facts_table("ratios, median of the rounds", outcome.ratios), *outcome.notes)
            console.print(f"written: {write(name, outcome, output)}", soft_wrap=True)
        if tested:
            console.print(f"written: {on_gpu.write_page(tested, outcomes, on_gpu.described(), output)}", soft_wrap=True)
    return 1 if tested and tested.failed else 0


if __name__ == "__main__":
    run_job(lambda: tyro.cli(main, description=filled(__doc__)))
