"""Whatever a job opens may be damaged, or written by somebody else: it works, or says in a line why it cannot."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hemodist.dataset.digest import sha256
from hemodist.dataset.labels import LABELS
from hemodist.dataset.manifest import INDEX, MANIFEST, REJECTED
from hemodist.models.fold_runs import FINISHED as RESULT
from hemodist.scoring.write_results import PREDICTIONS
from hemodist.storage.store import StoreError
from hemodist.training.found_lr import RESULT as FOUND_LR
from hemodist.training.run_checkpoints import HISTORY
from shards.building import build, unfinished
from shards.building.options import ShardConfig
from tests.support.damage import changed_bytes, changed_json, changed_lines, changed_table, changed_value, parquet
from tests.support.dicom_files import write_source
from tests.support.limited import complaint, run_limited
from tests.support.processes import CHECKOUT

EACH = 40
"""Damages of each kind of file, in the full run: 600 in all."""

BY_DEFAULT = 2

STUDIED = "study/runs/resnet18-s0"
UNFINISHED = "unfinished"


def rewrite(name: str, changed: Callable[[random.Random, bytes], bytes]) -> Callable[[random.Random, Path], None]:
    """Damage to one file, named below the folder of the test."""

    def change(rng: random.Random, folder: Path) -> None:
        file = folder / name
        file.write_bytes(changed(rng, file.read_bytes()))

    return change


def changed_parquet(rng: random.Random, content: bytes) -> bytes:
    """A table of which a byte, a column or a row is another."""
    return changed_bytes(rng, content) if rng.random() < 0.2 else parquet(changed_table(rng, read_parquet(content)))


def read_parquet(content: bytes) -> pa.Table:
    """The table of a file's bytes."""
    return pq.read_table(pa.BufferReader(content))


def change_table(name: str, digest: str) -> Callable[[random.Random, Path], None]:
    """A table of the data set; most times the manifest names the digest of what is there, as another tool writes it."""

    def change(rng: random.Random, folder: Path) -> None:
        file, manifest = folder / "dataset" / name, folder / "dataset" / MANIFEST
        file.write_bytes(changed_parquet(rng, file.read_bytes()))
        if rng.random() < 0.9:
            fields = json.loads(manifest.read_bytes())
            manifest.write_text(json.dumps(fields | {digest: sha256(file.read_bytes())}))

    return change


def change_record(rng: random.Random, folder: Path) -> None:
    """Of the run's checkpoint."""
    file = max((folder / "run/checkpoints").glob("*.json"))
    file.write_bytes(changed_json(rng, file.read_bytes()))


def change_checkpoint(rng: random.Random, folder: Path) -> None:
    """Of the run; most times its record names the digest of what is there."""
    file, record = (max((folder / "run/checkpoints").glob(f"*.{kind}")) for kind in ("pt", "json"))
    if rng.random() < 0.3:
        file.write_bytes(changed_bytes(rng, file.read_bytes()))
    else:
        torch.save(changed_value(rng, torch.load(file, weights_only=True)), file)
    if rng.random() < 0.9:
        fields = json.loads(record.read_bytes())
        content = file.read_bytes()
        record.write_text(json.dumps(fields | {"sha256": sha256(content), "bytes": len(content)}))


def change_shard_record(rng: random.Random, folder: Path) -> None:
    """Of the unfinished build; most times with the digest of what is there."""
    file = rng.choice(sorted((folder / UNFINISHED / "records").iterdir()))
    whole = file.read_bytes()
    content = whole[: -hashlib.sha256().digest_size]
    if rng.random() < 0.2:
        file.write_bytes(changed_bytes(rng, whole))
        return
    if rng.random() < 0.3:
        table = read_parquet(content)
        meta = table.schema.metadata
        other = str(changed_value(rng, "x"))[:300].encode(errors="replace")
        content = parquet(table.replace_schema_metadata(meta | {rng.choice(list(meta)): other}))
    else:
        content = changed_parquet(rng, content)
    file.write_bytes(content + (hashlib.sha256(content).digest() if rng.random() < 0.9 else b""))


JOBS = CHECKOUT / "jobs"
EVALUATE = ["{jobs}/evaluate.py", "{folder}/run", "{folder}/dataset", "--output", "{folder}/out"]
BUILD = [
    "{jobs}/shard.py", "--source", "{folder}/source", "--size", "32", "--workers", "0", "--samples-per-shard", "16",
    "--max-rejected-fraction", "1",
]  # fmt: skip
SHARD = [*BUILD, "--output", "{folder}/out"]
GO_ON = [*BUILD, "--output", "{folder}/" + UNFINISHED]
PREDICT = [
    "{jobs}/predict.py", "{folder}/run", "{folder}/source", "--output", "{folder}/submission.csv", "--device", "cpu",
]  # fmt: skip
PREDICT_DATASET = [
    "{jobs}/predict.py", "{folder}/run", "{folder}/dataset", "--output", "{folder}/submission.csv", "--device", "cpu",
    "--max-rejected-fraction", "1",
]  # fmt: skip
SMALL = [
    "debug", "--data.dataset", "{folder}/dataset", "--output", "{folder}", "--name", "run",
    "--model.name", "shufflenet_v2_x0_5", "--model.image-size", "32", "--batch.global-batch-size", "8",
    "--batch.mix-group", "2", "--data.decode-threads", "1",
]  # fmt: skip
FIND_LR = ["{jobs}/find_lr.py", *SMALL, "--steps", "60", "--lowest", "1e-5", "--highest", "10"]
TRAIN = ["{jobs}/train.py", *SMALL, "--optim.epochs", "1", "--optim.lr", "found", "--checkpoint.every-steps", "1"]
STUDY = [
    "{jobs}/study.py", "--data.dataset", "{folder}/dataset", "--output", "{folder}/study", "--recipes", "resnet18",
    "--seeds", "0", "--epochs", "1", "--image-size", "32", "--global-batch-size", "8", "--replicates", "100",
    "--scaling.workers", "0", "--tracking.mode", "disabled", "--no-classical", "--weights", "none",
]  # fmt: skip
VERIFY = ["-m", "shards", "verify", "{folder}/dataset"]
SHOW = ["-m", "shards", "show", "{folder}/dataset", "--sheet", "{folder}/sheet.png"]
REJECTED_FILES = ["-m", "shards", "show", "{folder}/dataset", "--rejected"]
EXPORT = ["{jobs}/export.py", "{folder}/run"]

CHANGES: dict[str, tuple[Callable[[random.Random, Path], None], list[list[str]]]] = {
    "manifest": (rewrite(f"dataset/{MANIFEST}", changed_json), [EVALUATE, TRAIN, VERIFY, SHOW, PREDICT_DATASET]),
    "index": (change_table(INDEX, "index_sha256"), [EVALUATE, TRAIN, VERIFY, SHOW]),
    "rejected": (change_table(REJECTED, "rejected_sha256"), [VERIFY, SHOW, REJECTED_FILES, PREDICT_DATASET]),
    "idx": (rewrite("dataset/shards/000001.idx", changed_bytes), [EVALUATE, VERIFY]),
    "record": (change_record, [EVALUATE, TRAIN, PREDICT]),
    "checkpoint": (change_checkpoint, [EVALUATE, PREDICT, EXPORT]),
    "found_lr": (rewrite(f"run/{FOUND_LR}", changed_json), [TRAIN]),
    "labels": (rewrite("labels.csv", changed_lines), [[*SHARD, "--labels", "{folder}/labels.csv"]]),
    "ids": (rewrite("ids.txt", changed_lines), [[*SHARD, "--selection", "list", "--ids", "{folder}/ids.txt"]]),
    "shard_record": (change_shard_record, [GO_ON]),
    "build": (rewrite(f"{UNFINISHED}/{unfinished.BUILD}", changed_json), [GO_ON]),
    "key": (rewrite(f"{UNFINISHED}/{unfinished.KEY_FILE}", changed_bytes), [GO_ON]),
    "result": (rewrite(f"{STUDIED}/{RESULT}", changed_json), [STUDY]),
    "history": (rewrite(f"{STUDIED}/{HISTORY}", changed_json), [STUDY]),
    "predictions": (rewrite(f"{STUDIED}/{PREDICTIONS}", changed_parquet), [STUDY]),
}
"""By kind of file: the damage, and the commands that open such a file."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A data set, one begun, a run, a study, a source, its labels and a list of its slices, each as it should be."""
    folder = tmp_path_factory.mktemp("hostile")
    write_source(folder / "source", 40, broken=3)
    ids = sorted(file.stem for file in (folder / "source").rglob("ID_*.dcm"))
    rows = ["ID,Label", *(f"{name}_{label},{i % 2}" for i, name in enumerate(ids) for label in LABELS)]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "ids.txt").write_text("\n".join(ids) + "\n")
    labelled = [*BUILD, "--output", "{folder}/dataset", "--labels", "{folder}/labels.csv"]
    for command in (labelled, FIND_LR, TRAIN, STUDY):
        assert_works(command, folder)
    newest = max((folder / "run/checkpoints").glob("*.json"))
    newest.unlink()  # so that training would go on from the one before
    begin(folder)
    return folder


def begin(folder: Path) -> None:
    """Leave what is left of `GO_ON` where it is stopped after two of three shards."""
    source, output = str(folder / "source"), str(folder / UNFINISHED)
    given = ShardConfig(source, output, workers=0, samples_per_shard=16, size=32, max_rejected_fraction=1.0)
    todo = build.plan(given)
    assert isinstance(todo, build.BuildPlan)
    with pytest.raises(StoreError):
        build.run(todo, lambda function, tasks: iter([function(tasks[0]), function(tasks[1])]))


def run_in(folder: Path, command: list[str]) -> tuple[int, str]:
    """Exit code and output of a command on what is in `folder`."""
    return run_limited([word.format(folder=folder, jobs=JOBS) for word in command], folder, folder / "log")


def assert_works(command: list[str], folder: Path) -> None:
    """A command ends with exit code 0."""
    code, printed = run_in(folder, command)
    assert code == 0, printed


def complaint_of(kind: str, number: int, whole: Path, folder: Path) -> str | None:
    """What is wrong with how a job takes a damaged file; kind and number say which job and which damage."""
    rng = random.Random(f"{kind} {number}")
    change, commands = CHANGES[kind]
    command = commands[number % len(commands)]
    copy = folder / f"{kind}{number}"
    shutil.copytree(whole, copy)
    change(rng, copy)
    found = complaint(*run_in(copy, command), allowed=(0, 1, 2) if command is VERIFY else (0, 2))
    if not found:
        shutil.rmtree(copy)
    return f"{kind} {number}, {' '.join(command)}, in {copy}: {found}" if found else None


def test_each_whole_file_is_taken(whole, tmp_path):
    commands = [command for _, commands in CHANGES.values() for command in commands]
    for number, command in enumerate(map(list, dict.fromkeys(map(tuple, commands)))):
        copy = tmp_path / str(number)
        shutil.copytree(whole, copy)
        assert_works(command, copy)


def test_a_damaged_file_is_said_in_a_line(whole, tmp_path):
    every = [(kind, number) for kind in CHANGES for number in range(BY_DEFAULT)]
    assert not [found for one in every if (found := complaint_of(*one, whole, tmp_path))]


@pytest.mark.faults
@pytest.mark.parametrize("kind", CHANGES)
def test_hundreds_of_damaged_files_are_said_in_a_line(kind, whole, tmp_path):
    assert not [found for number in range(EACH) if (found := complaint_of(kind, number, whole, tmp_path))]
