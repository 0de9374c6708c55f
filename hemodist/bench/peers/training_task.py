"""What the trainers of `bench.quality` are told, and how they answer: a line of JSON an epoch on standard output.

Each is a process of its own. This module imports nothing that only hemodist has, since fastai's environment lacks it.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hemodist.dataset.labels import LABELS

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of the full range, as hemodist's own pipeline has them."""


@dataclass(frozen=True)
class Task:
    """One training.

    Attributes:
        folder: holds `slices.csv` (columns file, valid and the labels) and the JPEGs that it names.
        dataset: the same slices as a data set of hemodist.
        valid_fold: of that data set, of five.
        out: folder for what the network says after each epoch.
        seed: of weights, order and augmentation.
        size: side of the network's input in pixels.
        epochs: passes over the training slices.
        batch: slices a step.
        lr: peak of the one-cycle schedule.
        weight_decay: of AdamW.
        threads: of PyTorch.
    """

    folder: str
    dataset: str
    valid_fold: int
    out: str
    seed: int
    size: int
    epochs: int
    batch: int
    lr: float
    weight_decay: float
    threads: int

    @classmethod
    def of_command_line(cls) -> Task:
        """The task that a trainer was started with."""
        return cls(**json.loads(sys.argv[1]))


@dataclass(frozen=True)
class Slices:
    """The slices of one side of the split: files, and targets float32 [n, 6]."""

    files: list[Path]
    targets: npt.NDArray[np.float32]


def read(task: Task) -> tuple[Slices, Slices]:
    """The slices that train, and those that validate, in the data set's order."""
    with (Path(task.folder) / "slices.csv").open() as file:
        rows = list(csv.DictReader(file))
    sides = [[row for row in rows if row["valid"] == side] for side in "01"]
    train, valid = (
        Slices(
            [Path(task.folder) / row["file"] for row in side],
            np.array([[float(row[label]) for label in LABELS] for row in side], np.float32),
        )
        for side in sides
    )
    return train, valid


class Answers:
    """Writes what the network says after each epoch, and prints when."""

    def __init__(self, task: Task) -> None:
        """The clock starts now."""
        self._out, self._start, self._epoch = Path(task.out), time.perf_counter(), 0

    def add(self, probability: npt.NDArray[np.floating]) -> None:
        """An epoch has ended: P(positive) of the validation slices, [n, 6]."""
        seconds = time.perf_counter() - self._start
        self._epoch += 1
        np.save(self._out / f"{self._epoch}.npy", probability.astype(np.float64))
        print(json.dumps({"epoch": self._epoch, "seconds": seconds}), flush=True)
