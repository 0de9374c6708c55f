"""Does a run of hemodist end as well as a plain PyTorch loop's and fastai's? The same network, data, epochs and batch.

Each training is a process of its own. A round is a seed: all ways train with it, one after the other, in an order that
turns. Scored is the last epoch of each, so that none is chosen on the slices that it is scored on.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from hemodist.bench.environments import environment
from hemodist.bench.folds import smallest_fold
from hemodist.bench.peers.training_task import Task
from hemodist.bench.rounds import Outcome
from hemodist.config.data import DataConfig
from hemodist.config.recipes import demo
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.errors import ConfigError, UserError
from hemodist.loading.sample_reader import Reader
from hemodist.loading.shard_cache import ShardCache
from hemodist.metrics.bootstrap import resamples
from hemodist.metrics.log_loss import weighted_log_loss
from hemodist.metrics.paired import AUC, LOG_LOSS, ResampledScores, difference, resample_scores
from hemodist.plan.prepare import divide

OURS, PLAIN, FASTAI = "hemodist", "plain PyTorch loop", "fastai"
WAYS = {OURS: "hemodist_training", PLAIN: "plain_training", FASTAI: "fastai_training"}
FASTAI_PACKAGES = ("fastai==2.8.12", "torchvision==0.29.2", "torch==2.15.0", "numpy==2.4.6", "pillow==13.0.0")
WORSE = 0.005
"""Most by which the weighted log loss may be above another way's: the upper end of the paired interval."""
SLOWER = 1.1
"""Most times the plain loop's time that its final score may take."""
REPLICATES = 2000


@dataclass(frozen=True, eq=False)
class Training:
    """One training of one way.

    Attributes:
        seconds: since its start, at the end of each epoch; imports not counted.
        cpu_seconds: of the process and its workers, likewise, imports counted.
        probability: float64 [epochs, n, 6], of the validation slices.
        losses: the weighted log loss after each epoch.
    """

    seconds: tuple[float, ...]
    cpu_seconds: tuple[float, ...]
    probability: npt.NDArray[np.float64]
    losses: tuple[float, ...]

    def reached(self, loss: float, clock: Sequence[float]) -> float:
        """Time on a clock when an epoch first ended at or below a loss; infinite where none did."""
        return min((time for time, own in zip(clock, self.losses, strict=True) if own <= loss), default=float("inf"))


def bench_quality(dataset: Path, work: Path, *, quick: bool, fastai_python: str | None = None) -> Outcome:
    """Train with each way and several seeds, and compare.

    Args:
        dataset: a data set of JPEGs, every label known.
        work: folder for the slices as files, the runs, and the environment of fastai.
        quick: one seed and two epochs, which only shows that it works.
        fastai_python: interpreter of an environment with fastai; made by uv where there is none.
    """
    python = fastai_python or environment(work / "fastai", FASTAI_PACKAGES)
    absent = {} if python else {FASTAI: "it has no environment; give one by --fastai-python, or install uv"}
    pythons = {way: python if way == FASTAI and python else sys.executable for way in WAYS if way not in absent}
    seeds = 1 if quick else 3
    recipe, opened = demo(), DataSet.open(str(dataset))
    if (opened.labels() == UNKNOWN).any():
        raise ConfigError(f"{dataset} has unknown labels, which fastai's learner cannot take; give one without")
    fold = smallest_fold(dataset) if quick else recipe.data.valid_fold
    task = Task(
        folder=str(work / "slices"),
        dataset=str(dataset),
        valid_fold=fold,
        out="",
        seed=0,
        size=recipe.model.image_size,
        epochs=2 if quick else 8,
        batch=recipe.batch.global_batch_size,
        lr=recipe.optim.peak,
        weight_decay=recipe.optim.weight_decay,
        threads=len(os.sched_getaffinity(0)),
    )
    valid = write_slices(opened, fold, Path(task.folder))
    labels, groups = opened.labels()[valid], opened.column("group")[valid]
    found: dict[str, list[Training]] = {way: [] for way in pythons}
    for seed in range(seeds):
        first = seed % len(pythons)
        for way in [*pythons][first:] + [*pythons][:first]:
            out = work / f"{WAYS[way]}-{seed}"
            out.mkdir(parents=True)
            found[way].append(run(way, replace(task, out=str(out), seed=seed), pythons[way], labels))
    return compare(found, labels, groups, task, absent)


def write_slices(dataset: DataSet, fold: int, folder: Path) -> npt.NDArray[np.int64]:
    """Write the slices of a split as files with a table; returns the rows that validate, int64 [n]."""
    config = dataset.manifest.config
    if config["encoding"] != "jpeg":
        raise ConfigError(f"{dataset.store.uri} holds {config['encoding']} pictures; give a data set of JPEGs")
    split = divide(DataConfig(dataset=dataset.store.uri, valid_fold=fold), dataset)
    rows = np.sort(np.concatenate([split.train, split.valid]))
    labels, validates = dataset.labels(), set(split.valid.tolist())
    reader = Reader(dataset, ShardCache(dataset, str(folder / "cache")))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "slices.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "valid", *LABELS])
        for row in rows.tolist():
            name = f"{row:07d}.jpg"
            (folder / name).write_bytes(reader.read(row).tobytes())
            table.writerow([name, int(row in validates), *labels[row].tolist()])
    reader.close()
    return split.valid


def run(way: str, task: Task, python: str, labels: npt.NDArray[np.int8]) -> Training:
    """Train once.

    Raises:
        UserError: the process ended before its last epoch; the text says what it wrote last.
    """
    log = Path(task.out) / "log"
    with log.open("w") as errors:
        command = [python, "-m", f"hemodist.bench.peers.{WAYS[way]}", json.dumps(asdict(task))]
        environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environ)
    seconds, cpu_seconds = list[float](), list[float]()
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("{"):
                cpu_seconds.append(_cpu_seconds(process.pid))
                seconds.append(json.loads(line)["seconds"])
        code = process.wait()
    finally:
        process.kill()
        process.wait()
    if code or len(seconds) != task.epochs:
        last = log.read_text().strip().splitlines()[-1:] or ["nothing"]
        raise UserError(f"{way} ended with code {code} after {len(seconds)} epochs; the last it wrote is: {last[0]}")
    probability = np.stack([np.load(Path(task.out) / f"{epoch + 1}.npy") for epoch in range(task.epochs)])
    losses = tuple(weighted_log_loss(one, labels) for one in probability)
    return Training(tuple(seconds), tuple(cpu_seconds), probability, losses)


def compare(
    found: Mapping[str, Sequence[Training]],
    labels: npt.NDArray[np.int8],
    groups: npt.NDArray[np.int32],
    task: Task,
    absent: Mapping[str, str],
) -> Outcome:
    """Scores with intervals over patients, and differences with intervals over patients and seeds.

    Args:
        found: by way, a training a seed.
        labels: int8 [n, 6], of the validation slices.
        groups: int32 [n], their patients.
        task: what all were told.
        absent: ways that could not be run, and why.
    """
    names, group = np.unique(groups, return_inverse=True)
    counts = resamples(len(names), REPLICATES, 0)
    scores: dict[str, ResampledScores] = {
        way: resample_scores(way, np.stack([one.probability[-1] for one in trainings]), labels, group, counts)
        for way, trainings in found.items()
    }
    rows, figures = list[list[str]](), dict[str, Any]()
    for way, trainings in found.items():
        estimates = [scores[way].estimate(score) for score in (LOG_LOSS, AUC)]
        wall, cpu = ([clock[-1] for clock in clocks] for clocks in _clocks(trainings))
        shown = [f"{one.value:.4f} ({one.low:.4f} to {one.high:.4f})" for one in estimates]
        rows.append([way, *shown, _span(wall), _span(cpu)])
        figures[way] = {
            LOG_LOSS: asdict(estimates[0]),
            AUC: asdict(estimates[1]),
            "seeds": [
                {"losses": one.losses, "seconds": one.seconds, "cpu_seconds": one.cpu_seconds} for one in trainings
            ],
        }
    ratios = dict[str, str]()
    for other in found.keys() - {OURS}:
        for score, bound in ((LOG_LOSS, f", bound +{WORSE:g} at the upper end"), (AUC, "")):
            one = difference(scores[OURS], scores[other], score)
            ratios[f"{score}: {OURS} - {other}"] = f"{one.value:+.4f} ({one.low:+.4f} to {one.high:+.4f}{bound})"
            figures[f"{score}: {OURS} - {other}"] = asdict(one)
    if PLAIN in found:
        taken = [times_to_final(ours, plain) for ours, plain in zip(found[OURS], found[PLAIN], strict=True)]
        figures["time to the plain loop's final score"] = taken
        for clock, name in enumerate(("by the clock", "by CPU time")):
            of = [one[clock] for one in taken]
            ratios[f"time to the plain loop's final score, {OURS} / {PLAIN}, {name}"] = (
                f"{statistics.median(of):.2f} ({min(of):.2f} to {max(of):.2f}, bound {SLOWER:g})"
            )
    seeds = len(found[OURS])
    title = (
        f"quality: ResNet-18, {task.size} px, {task.epochs} epochs, batch {task.batch}, {seeds} seeds; "
        f"{len(labels):,} validation slices of {len(names)} patients, {task.threads} threads"
    )
    return Outcome(
        title,
        ["way", "weighted log loss", "AUC of any", "seconds", "CPU seconds"],
        rows,
        dict(sorted(ratios.items())),
        {"task": asdict(replace(task, folder="", dataset="", out="")), **figures, "not measured": dict(absent)},
        ("hemodist", "torch", "torchvision", "nvidia-dali-cuda130", "numpy"),
        lambda path: _plot(found, title, path),
        [f"{way} was not measured: {reason}" for way, reason in absent.items()],
    )


def times_to_final(ours: Training, plain: Training) -> tuple[float, float]:
    """How long we take to the plain loop's final score, over how long it takes: by the clock, and by CPU time."""
    target = plain.losses[-1]
    clocks = ((ours.seconds, plain.seconds), (ours.cpu_seconds, plain.cpu_seconds))
    own, other = zip(*((ours.reached(target, a), b[-1]) for a, b in clocks), strict=True)
    return own[0] / other[0], own[1] / other[1]


def _clocks(trainings: Sequence[Training]) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
    return [one.seconds for one in trainings], [one.cpu_seconds for one in trainings]


def _span(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def _cpu_seconds(pid: int) -> float:
    try:
        parent = psutil.Process(pid)
        return float(sum(sum(one.cpu_times()[:2]) for one in [parent, *parent.children(recursive=True)]))
    except psutil.NoSuchProcess:
        return float("nan")


def _plot(found: Mapping[str, Sequence[Training]], title: str, path: Path) -> None:
    """The loss after each epoch by CPU time, a line a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, (way, trainings) in enumerate(found.items()):
        for seed, one in enumerate(trainings):
            axes.plot(one.cpu_seconds, one.losses, "o-", color=f"C{number}", label=way if seed == 0 else None)
    axes.set_xlabel("CPU seconds")
    axes.set_ylabel("weighted log loss")
    axes.set_title(title, fontsize=9)
    axes.legend()
    figure.savefig(path, dpi=120)
