"""Whatever a job opens may be damaged, or written by somebody else: it works, or says in a line why it cannot."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hemodist.dataset.digest import sha256
from hemodist.dataset.labels import LABELS
from hemodist.dataset.manifest import INDEX, MANIFEST
from hemodist.training.found_lr import RESULT
from tests.support.dicom_files import write_source
from tests.support.limited import complaint, run_limited
from tests.support.processes import CHECKOUT

MUTATIONS = 500
BY_DEFAULT = 30

ABSURD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "x", "nan", "../x", "é\0" * 3,
    "9" * 5000, [], {}, [None], {"a": []}, [[[[[[1]]]]]],
)  # fmt: skip


def changed_bytes(rng: random.Random, content: bytes) -> bytes:
    """A file after a fault of a disk, an editor or a copy."""
    at = rng.randrange(len(content))
    length = rng.randint(1, 200)
    return rng.choice(
        [
            b"",
            content[:at],
            content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :],
            content[:at] + bytes(length) + content[at + length :],
            content[:at] + content[at + length :],
            content[:at] + rng.randbytes(length) + content[at:],
            content + content,
            content.decode("latin-1").encode("utf-16"),
            b"\xef\xbb\xbf" + content,
            rng.randbytes(len(content)),
        ]
    )


def changed_value(rng: random.Random, value: Any) -> Any:
    """A JSON value with one of its parts, at any depth, replaced, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.15:
            return {name: part for name, part in value.items() if name != key}
        if kind < 0.25:
            return value | {"more": rng.choice(ABSURD)}
        return value | {key: changed_value(rng, value[key])}
    if isinstance(value, list | tuple) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], changed_value(rng, value[at]), *value[at + 1 :]]
    return rng.choice(ABSURD)


def changed_json(rng: random.Random, content: bytes) -> bytes:
    """A JSON file of which a byte or a value is another."""
    if rng.random() < 0.3:
        return changed_bytes(rng, content)
    return json.dumps(changed_value(rng, json.loads(content))).encode()


def changed_table(rng: random.Random, table: pa.Table) -> pa.Table:
    """A table of which a column is missing, of another type, null or absurd, or the rows others."""
    at = rng.randrange(table.num_columns)
    field, rows = table.schema.field(at), table.num_rows
    others = [
        pa.nulls(rows),
        pa.array(["x"] * rows),
        pa.array([2**62] * rows),
        pa.array([-1] * rows),
        pa.array([float("nan")] * rows),
        pa.array([[1]] * rows),
        pa.array([[b"x" * 16, None][i % 2] for i in range(rows)]),
        pa.array([None, *table.column(at).to_pylist()[1:]], field.type),
    ]
    return rng.choice(
        [
            lambda: table.remove_column(at),
            lambda: table.slice(0, 0),
            lambda: pa.concat_tables([table, table]),
            lambda: table.slice(1),
            *[lambda other=other: table.set_column(at, pa.field(field.name, other.type), other) for other in others]
            * 2,
        ]
    )()


def parquet(table: pa.Table) -> bytes:
    """Its file."""
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def change_manifest(rng: random.Random, folder: Path) -> None:
    """Of the data set in `folder`."""
    file = folder / "dataset" / MANIFEST
    file.write_bytes(changed_json(rng, file.read_bytes()))


def change_index(rng: random.Random, folder: Path) -> None:
    """Of the data set; most times the manifest names the digest of what is there, as somebody's own tool writes it."""
    file, manifest = folder / "dataset" / INDEX, folder / "dataset" / MANIFEST
    table = pq.read_table(file)
    file.write_bytes(
        changed_bytes(rng, file.read_bytes()) if rng.random() < 0.2 else parquet(changed_table(rng, table))
    )
    if rng.random() < 0.9:
        fields = json.loads(manifest.read_bytes())
        manifest.write_text(json.dumps(fields | {"index_sha256": sha256(file.read_bytes())}))


def change_record(rng: random.Random, folder: Path) -> None:
    """Of the run's checkpoint."""
    file = max((folder / "run/checkpoints").glob("*.json"))
    file.write_bytes(changed_json(rng, file.read_bytes()))


def change_found_lr(rng: random.Random, folder: Path) -> None:
    """Of the run."""
    file = folder / "run" / RESULT
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


def change_lines(rng: random.Random, file: Path) -> None:
    """Of a text file of values between commas: a byte, or a value."""
    rows = [line.split(",") for line in file.read_text().splitlines()]
    kind = rng.random()
    if kind < 0.4:
        file.write_bytes(changed_bytes(rng, file.read_bytes()))
        return
    row = rng.choice(rows[rng.random() < 0.9 :])
    row[rng.randrange(len(row))] = rng.choice(
        ["", "2", "-1", "nan", "inf", "1e999", "yes", " ", "\0", '"', "x" * 10**6, "0.5"]
    )
    with file.open("w", newline="") as output:
        csv.writer(output).writerows(rows)


def change_labels(rng: random.Random, folder: Path) -> None:
    """Of the source."""
    change_lines(rng, folder / "labels.csv")


def change_ids(rng: random.Random, folder: Path) -> None:
    """Of the slices that are selected."""
    change_lines(rng, folder / "ids.txt")


EVALUATE = ["{jobs}/evaluate.py", "{folder}/run", "{folder}/dataset", "--output", "{folder}/out"]
BUILD = [
    "{jobs}/shard.py",
    "--source",
    "{folder}/source",
    "--size",
    "32",
    "--workers",
    "0",
    "--max-rejected-fraction",
    "1",
]
SHARD = [*BUILD, "--output", "{folder}/out"]
PREDICT = [
    "{jobs}/predict.py",
    "{folder}/run",
    "{folder}/source",
    "--output",
    "{folder}/submission.csv",
    "--device",
    "cpu",
]
SMALL = [
    "debug", "--data.dataset", "{folder}/dataset", "--output", "{folder}", "--name", "run",
    "--model.name", "shufflenet_v2_x0_5", "--model.image-size", "32", "--batch.global-batch-size", "8",
    "--batch.mix-group", "2", "--data.decode-threads", "1",
]  # fmt: skip
FIND_LR = ["{jobs}/find_lr.py", *SMALL, "--steps", "60", "--lowest", "1e-5", "--highest", "10"]
TRAIN = ["{jobs}/train.py", *SMALL, "--optim.epochs", "1", "--optim.lr", "found", "--checkpoint.every-steps", "1"]
VERIFY = ["-m", "shards", "verify", "{folder}/dataset"]
SHOW = ["-m", "shards", "show", "{folder}/dataset", "--sheet", "{folder}/sheet.png"]
EXPORT = ["{jobs}/export.py", "{folder}/run"]

CHANGES: list[tuple[Callable[[random.Random, Path], None], list[list[str]]]] = [
    (change_manifest, [EVALUATE, TRAIN, VERIFY, SHOW]),
    (change_index, [EVALUATE, TRAIN, VERIFY, SHOW]),
    (change_record, [EVALUATE, TRAIN, PREDICT]),
    (change_checkpoint, [EVALUATE, PREDICT, EXPORT]),
    (change_found_lr, [TRAIN]),
    (change_labels, [[*SHARD, "--labels", "{folder}/labels.csv"]]),
    (change_ids, [[*SHARD, "--selection", "list", "--ids", "{folder}/ids.txt"]]),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A data set, a run, a source, its labels and a list of its slices, each as it should be."""
    folder = tmp_path_factory.mktemp("hostile")
    write_source(folder / "source", 40)
    ids = sorted(file.stem for file in (folder / "source").rglob("*.dcm"))
    rows = ["ID,Label", *(f"{name}_{label},{i % 2}" for i, name in enumerate(ids) for label in LABELS)]
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "ids.txt").write_text("\n".join(ids) + "\n")
    for command in ([*BUILD, "--output", "{folder}/dataset", "--labels", "{folder}/labels.csv"], FIND_LR, TRAIN):
        assert_works(command, folder)
    newest = max((folder / "run/checkpoints").glob("*.json"))
    newest.unlink()  # so that training would go on from the one before
    return folder


def assert_works(command: list[str], folder: Path) -> None:
    """A command ends with exit code 0."""
    words = [word.format(folder=folder, jobs=CHECKOUT / "jobs") for word in command]
    code, printed = run_limited(words, folder, folder / "log")
    assert code == 0, printed


def complaint_of(number: int, whole: Path, folder: Path) -> str | None:
    """What is wrong with how a job takes a damaged file; `number` says which job, which file and which damage."""
    rng = random.Random(number)
    change, commands = CHANGES[number % len(CHANGES)]
    command = rng.choice(commands)
    copy = folder / str(number)
    shutil.copytree(whole, copy)
    change(rng, copy)
    words = [word.format(folder=copy, jobs=CHECKOUT / "jobs") for word in command]
    found = complaint(*run_limited(words, copy, copy / "log"), allowed=(0, 1, 2) if command is VERIFY else (0, 2))
    if not found:
        shutil.rmtree(copy)
    return f"{number}, {change.__name__}, {' '.join(words)}: {found}" if found else None


def test_each_whole_file_is_taken(whole, tmp_path):
    for number, command in enumerate(
        [TRAIN, EVALUATE, PREDICT, VERIFY, SHOW, EXPORT, CHANGES[-1][1][0], CHANGES[-2][1][0]]
    ):
        copy = tmp_path / str(number)
        shutil.copytree(whole, copy)
        assert_works(command, copy)


def test_a_damaged_file_is_said_in_a_line(whole, tmp_path):
    assert not [found for number in range(BY_DEFAULT) if (found := complaint_of(number, whole, tmp_path))]


@pytest.mark.faults
def test_hundreds_of_damaged_files_are_said_in_a_line(whole, tmp_path):
    assert not [found for number in range(MUTATIONS) if (found := complaint_of(number, whole, tmp_path))]
