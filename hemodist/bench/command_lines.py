"""What a command line costs before anything computes: help, and the answer to a mistake."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hemodist.bench.rounds import Lap, measure

ROOT = Path(__file__).parents[2]

LIMIT = 2.0
"""Of the CPU time of `IMPORTS`."""

IMPORTS = ("-c", "import tyro, numpy, pyarrow")


@dataclass(frozen=True)
class CommandLine:
    """One command.

    Attributes:
        words: what follows `python`.
        code: its exit code: 0 after help, 2 after a mistake.
        says: part of what it prints.
    """

    words: tuple[str, ...]
    code: int
    says: str

    def __str__(self) -> str:
        return " ".join(self.words)


_PROGRAMS = {
    "jobs/demo.py": "",
    "jobs/doctor.py": "",
    "jobs/shard.py": "",
    "jobs/find_lr.py alexnet": "",
    "jobs/train.py resnet18": "",
    "jobs/evaluate.py": "run dataset",
    "jobs/predict.py": "run scans",
    "jobs/export.py": "run",
    "jobs/study.py": "",
    "jobs/bench.py": "start",
    "-m shards verify": "dataset",
    "-m hemodist.cluster.drain": "",
}
"""What is started, and what it needs beside flags."""

COMMAND_LINES = [
    *(CommandLine((*name.split(), "--help"), 0, "usage: ") for name in _PROGRAMS),
    *(
        CommandLine((*name.split(), *given.split(), "--no-such-flag"), 2, "--no-such-flag")
        for name, given in _PROGRAMS.items()
    ),
    CommandLine(("jobs/train.py", "--help"), 0, "densenet161_cutmix"),
    CommandLine(("jobs/find_lr.py", "--help"), 0, "densenet161_cutmix"),
    CommandLine(("-m", "shards", "--help"), 0, "phantom"),
    CommandLine(("jobs/train.py", "resnet19", "--no-such-flag"), 2, "did you mean resnet18?"),
    CommandLine(("jobs/find_lr.py", "alexnett", "--no-such-flag"), 2, "did you mean alexnet?"),
    CommandLine(("jobs/study.py", "--recipes", "resnet19"), 2, "resnet19"),
    CommandLine(("jobs/bench.py", "loadr"), 2, "loader"),
    CommandLine(("jobs/train.py", "resnet18"), 2, "add --data.dataset PATH"),
    CommandLine(("jobs/train.py", "resnet18", "--data.dataset", "x", "--optim.epochs", "0"), 2, "optim.epochs 0"),
    CommandLine(("-m", "hemodist.cluster.drain", "--node", "none"), 2, "0 nodes of Ray"),  # a pod's hook without Ray
]


def start(words: tuple[str, ...], *flags: str) -> subprocess.CompletedProcess[str]:
    """Run `python FLAGS WORDS` in the checkout, and wait for it."""
    return subprocess.run([sys.executable, *flags, *words], cwd=ROOT, capture_output=True, text=True, check=False)


def cpu_ratios(rounds: int) -> dict[str, float]:
    """The least CPU time of each command line over the least of `IMPORTS`.

    Args:
        rounds: in each, every command runs once; one before them warms up.
    """
    ways = {"": IMPORTS} | {str(line): line.words for line in COMMAND_LINES}
    laps = measure({name: partial(_lap, words) for name, words in ways.items()}, rounds)
    least = {name: min(lap.cpu_ms for lap in laps[name]) for name in ways}
    return {str(line): least[str(line)] / least[""] for line in COMMAND_LINES}


def _lap(words: tuple[str, ...]) -> Lap:
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    start(words)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Lap(1 / seconds, 1000 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime))
