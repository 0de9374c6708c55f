"""A number that a flag cannot take is said in a line, whatever the flag and the job."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from hemodist.dataset.dataset import DataSet
from tests.support.checkpoints import make_checkpoint
from tests.support.dataset import make_dataset
from tests.support.dicom_files import write_source
from tests.support.limited import complaint, run_limited
from tests.support.processes import CHECKOUT

NUMBERS = ("0", "-1", "nan", "inf", str(2**63))
CHOSEN = 30
"""Of all flags with all numbers, in the default tests."""

SMALL = [
    "--model.name", "shufflenet_v2_x0_5", "--model.image-size", "32", "--batch.global-batch-size", "8",
    "--batch.mix-group", "2", "--data.decode-threads", "1",
]  # fmt: skip
WORKING = {
    "train": ["debug", "--data.dataset", "{dataset}", "--output", "{out}", "--optim.epochs", "1", *SMALL],
    "find_lr": ["debug", "--data.dataset", "{dataset}", "--output", "{out}", "--steps", "60", "--lowest", "1e-5",
                "--highest", "10", *SMALL],
    "evaluate": ["{run}", "{dataset}", "--output", "{out}"],
    "predict": ["{run}", "{source}", "--output", "{out}/submission.csv", "--device", "cpu"],
    "shard": ["--source", "{source}", "--output", "{out}", "--size", "32", "--workers", "0"],
}  # fmt: skip
"""Of the jobs that end in seconds: each does its work, or says what it cannot take."""

LONG = {
    "study": ["--data.dataset", "{dataset}", "--output", "{out}", "--recipes", "debug"],
    "demo": ["--output", "{out}"],
    "bench": ["plan", "--quick", "--output", "{out}"],
    "doctor": ["--storage", "{out}"],
}
"""Of the jobs that work for minutes: each must refuse every number but 0 for the flags that are its own."""


LARGE_BATCH = {
    "predict files": ["predict", *WORKING["predict"], "--eval-batch-size"],
    "predict a data set": ["predict", "{run}", "{dataset}", "--output", "{out}/x.csv", "--eval-batch-size"],
    "evaluate": ["evaluate", *WORKING["evaluate"], "--eval-batch-size"],
    "train": ["train", *WORKING["train"], "--batch.eval-batch-size"],
}


def numeric_flags(job: str, first: list[str]) -> list[str]:
    """Of a job, by its own help."""
    help_of = [sys.executable, CHECKOUT / f"jobs/{job}.py", *first[: first[:1] == ["debug"]], "--help"]
    text = subprocess.run(
        help_of, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "400"}
    ).stdout
    return sorted(set(re.findall(r"(--[\w.-]+) (?:\{\w+\}\|)?\[?(?:INT|FLOAT)\b", text)))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flags")
    dataset = make_dataset(folder / "dataset", samples=40, patients=10)
    return {
        "dataset": dataset,
        "run": make_checkpoint(folder / "run", dataset=DataSet.open(str(dataset))),
        "source": write_source(folder / "source", 6),
    }


def calls(job: str) -> list[tuple[str, str, str]]:
    """(job, flag, number) for all flags of a job."""
    if job in WORKING:
        return [(job, flag, number) for flag in numeric_flags(job, WORKING[job]) for number in NUMBERS]
    own = [flag for flag in numeric_flags(job, LONG[job]) if "." not in flag]  # the others are those of train
    return [(job, flag, number) for flag in own for number in NUMBERS[1:]]


def complaint_of(job: str, flag: str, number: str, inputs: dict[str, Path], folder: Path) -> str | None:
    """What is wrong with how a job takes a number."""
    out = Path(tempfile.mkdtemp(dir=folder))
    words = [word.format(out=out, **inputs) for word in (WORKING | LONG)[job]]
    # Of a flag that is given twice, the last one counts.
    call = [CHECKOUT / f"jobs/{job}.py", *words, f"{flag}={number}", *[number] * (5 if "label-weights" in flag else 0)]
    code, printed = run_limited(call, out, out / "log")
    found = complaint(code, printed, (0, 2) if job in WORKING else (2,))
    return f"{job} {flag} {number}: {found}" if found else None


def test_numbers_that_a_flag_cannot_take_are_said_in_a_line(inputs, tmp_path):
    every = [call for job in (*WORKING, *LONG) for call in calls(job)]
    chosen = np.random.default_rng(1).permutation(every)[:CHOSEN]
    assert not [found for call in chosen.tolist() if (found := complaint_of(*call, inputs, tmp_path))]


@pytest.mark.parametrize("job", WORKING)
def test_a_job_works_with_the_flags_beside_which_numbers_are_tried(inputs, tmp_path, job):
    words = [word.format(out=tmp_path / "out", **inputs) for word in WORKING[job]]
    assert complaint(*run_limited([CHECKOUT / f"jobs/{job}.py", *words], tmp_path, tmp_path / "log"), (0,)) is None


@pytest.mark.parametrize("words", LARGE_BATCH.values(), ids=LARGE_BATCH.keys())
def test_a_batch_far_beyond_the_slices_takes_no_more_memory_than_they_do(inputs, tmp_path, words):
    job, *flags = [word.format(out=tmp_path, **inputs) for word in words]
    call = [CHECKOUT / f"jobs/{job}.py", *flags, str(2**31 - 1)]
    assert complaint(*run_limited(call, tmp_path, tmp_path / "log"), (0,)) is None


@pytest.mark.faults
@pytest.mark.parametrize("job", [*WORKING, *LONG])
def test_every_number_of_every_flag_is_taken_or_refused_in_a_line(job, inputs, tmp_path):
    assert not [found for call in calls(job) if (found := complaint_of(*call, inputs, tmp_path))]
