"""The full data set's numbers by simulation: 752,803 rows over 736 shards, from record files to an opened split."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hemodist.config.data import DataConfig
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.plan.prepare import divide
from hemodist.storage.store import Store
from shards.building import build, unfinished
from shards.building.finalise import finalise
from shards.building.options import ShardConfig
from shards.packing import record
from shards.packing.task import run_task
from tests.support.dicom_files import KEY, dicom_file, hu_image
from tests.support.memory import peak_bytes

ROWS = 752_803
PER_SHARD = 1023
SHARDS = 736
PATIENTS = 18_938
"""RSNA's stage 2 training set: slices, and patients; the shards follow."""

CONFIG = {
    "size": 256, "windows": [{"name": "brain", "center": 40.0, "width": 80.0}], "encoding": "jpeg", "selection": "all",
}  # fmt: skip
"""What finalising and opening ask of the sharder's configuration."""

MAX_WORKER_BYTES = 600 * 10**6


def write_records(folder: Path) -> None:
    """The record of every shard, with values of the real kinds, and some images that two patients share."""
    draw, output, start = np.random.default_rng(0), Store.open(folder), 0
    for number in range(SHARDS):
        count = min(PER_SHARD, ROWS - start)
        patient = draw.integers(0, PATIENTS, count)
        digests = draw.bytes(16 * count)
        labels = draw.random((count, 6)) < 0.07
        columns = {
            "path": [f"stage_2_train/ID_{row:09x}.dcm" for row in range(start, start + count)],
            "source_size": pa.array(np.full(count, 526_000)),
            "source_changed": pa.array(np.full(count, 1_570_000_000 * 10**9)),
            "reason": pa.nulls(count, pa.string()),
            "detail": pa.nulls(count, pa.string()),
            "key": [f"ID_{row:09x}" for row in range(start, start + count)],
            "shard": np.full(count, number, np.int32),
            "offset": np.arange(count) * 60_000,
            "size": np.full(count, 20_000, np.int32),
            "crc32": draw.integers(0, 2**32, count, dtype=np.uint32),
            **{label: labels[:, column].astype(np.int8) for column, label in enumerate(LABELS)},
            "patient": [f"{one:032x}" for one in patient],
            "study": [f"{one:031x}5" for one in patient],
            "series": [f"{one:031x}6" for one in patient],
            "position": draw.random(count, np.float32),
            "brain_fraction": draw.random(count, np.float32),
            # One in a hundred shows one of 5,000 images.
            "pixel_digest": [
                digests[16 * row : 16 * row + 16] if draw.random() > 0.01 else b"%016d" % draw.integers(5000)
                for row in range(count)
            ],
            "inverted": pa.nulls(count, pa.bool_()),
            "rows": np.full(count, 512, np.int32),
            "columns": np.full(count, 512, np.int32),
            "spacing": np.full(count, 0.5, np.float32),
            **{f"{kind}_number": patient for kind in ("patient", "study", "series")},
            "slice_number": np.arange(start, start + count),
        }
        table = pa.table([pa.array(columns[name]) for name in record.SCHEMA.names], record.SCHEMA.names)
        made = record.ShardRecord(number, count, count * 60_000, "0" * 64, "0" * 64)
        record.save(output, made, "build", table.cast(record.SCHEMA))
        start += count
    assert start == ROWS


def finalise_and_open(folder: str) -> tuple[float, float, int, int]:
    """In a process of its own: CPU seconds to finalise and to open and split, peak bytes, samples in use."""
    start = time.process_time()
    finalise(Store.open(folder), SHARDS, "build", CONFIG, [])
    finalised = time.process_time() - start
    start = time.process_time()
    parts = divide(DataConfig(dataset=folder), DataSet.open(folder))
    opened = time.process_time() - start
    peak = peak_bytes()
    return finalised, opened, peak, len(parts.train) + len(parts.valid)


@pytest.mark.timeout(240)
def test_the_index_of_752803_rows_is_finalised_in_2_gb_and_opened_in_seconds(tmp_path: Path) -> None:
    write_records(tmp_path)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        finalised, opened, peak, used = pool.apply(finalise_and_open, (str(tmp_path),))
    print(f"finalised in {finalised:.1f} s, opened and split in {opened:.2f} s, peak {peak / 1e6:.0f} MB")
    assert used == ROWS
    assert peak < 2e9
    assert finalised < 240  # 37 s on two busy cores; a slow machine takes four times that
    assert opened < 10  # 2 s there


def peaks(source: str, output: str, per_shard: int) -> list[int]:
    """In a process of its own: peak resident bytes after each task."""
    todo = build.plan(ShardConfig(source, output, samples_per_shard=per_shard, workers=0))
    assert isinstance(todo, build.BuildPlan)
    found = []
    for task in todo.tasks:
        run_task(task)
        found.append(peak_bytes())
    return found


def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slices: int, per_shard: int) -> list[int]:
    monkeypatch.setenv(unfinished.KEY_VARIABLE, KEY)
    source = tmp_path / "source"
    source.mkdir()
    contents = [dicom_file(hu_image(512, seed=seed)) for seed in range(16)]
    for number in range(16):
        (source / f"{number}.dcm").write_bytes(contents[number])
    for number in range(16, slices):  # hard links: many slices without many bytes
        (source / f"{number}.dcm").hardlink_to(source / f"{number % 16}.dcm")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peaks, (str(source), str(tmp_path / "out"), per_shard))


def test_a_worker_keeps_its_memory_from_shard_to_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = memory(tmp_path, monkeypatch, 1200, 200)
    print([f"{value / 1e6:.0f} MB" for value in found])
    assert max(found) < MAX_WORKER_BYTES
    assert found[-1] - found[1] < 30e6


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_worker_keeps_its_memory_from_1000_to_20000_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = memory(tmp_path, monkeypatch, 20_000, 1000)
    print([f"{value / 1e6:.0f} MB" for value in found])
    assert max(found) < MAX_WORKER_BYTES
    assert found[-1] - found[1] < 60e6
