"""Everything once, on a synthetic data set: `python jobs/demo.py`. Prints each command and runs it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import tyro

from hemodist.job import filled, run_job

HERE = Path(os.path.relpath(Path(__file__).parent))  # as a user would type it
SMALL = ("--size", 128, "--samples-per-shard", 256)
"""For minutes on two cores; the sharder's own defaults are 256 pixels and 1,024 samples."""


def main(output: Path = Path("demo"), slices: int = 1500, seed: int = 0, workers: int | None = None) -> int:
    """Make a synthetic data set, shard it, verify it, train on it, and score the result.

    Args:
        output: folder for everything; run again with the same one, it goes on where it stopped.
        slices: size of the data set; 1500 is the original study's.
        seed: seed of the data set.
        workers: training processes; 2, but on GPUs at most as many as there are.
    """
    import torch

    from hemodist.cluster.session import no_process_left_behind
    from hemodist.reports.terminal import console

    if workers is None:
        workers = min(2, torch.cuda.device_count() or 2)
    dicom, dataset, runs = output / "dicom", output / "dataset", output / "runs"
    commands: list[list[object]] = [
        ["-m", "shards", "phantom", dicom, "--slices", slices, "--seed", seed],
        [HERE / "shard.py", "--source", dicom, "--output", dataset, "--synthetic", *SMALL],
        ["-m", "shards", "verify", dataset],
        [HERE / "train.py", "demo", "--data.dataset", dataset, "--output", runs, "--scaling.workers", workers],
        [HERE / "evaluate.py", runs / "demo", dataset],
    ]
    with no_process_left_behind():
        for command in commands:
            arguments = [str(argument) for argument in command]
            console.print(f"\n$ python {shlex.join(arguments)}", style="bold cyan", soft_wrap=True)
            code = subprocess.run([sys.executable, *arguments], check=False).returncode
            if code:
                return code
    console.print(f"\nreport: {runs.resolve() / 'demo' / 'report.html'}", style="bold", soft_wrap=True)
    return 0


if __name__ == "__main__":
    run_job(
        lambda: tyro.cli(main, description=filled(__doc__)), goes_on="the same command goes on with what is finished"
    )
