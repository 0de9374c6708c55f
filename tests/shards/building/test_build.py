from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.dataset.manifest import read_manifest
from hemodist.storage.store import Store
from shards.building import build
from shards.inspect.verify import verify
from shards.packing.task import Task, TaskResult
from tests.support.builds import config, make
from tests.support.dicom_files import content_of, dicom_file, hu_image, write_source


def in_two_processes(function: Callable[[Task], TaskResult], tasks: Sequence[Task]) -> Iterator[TaskResult]:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        yield from pool.imap_unordered(function, tasks)


def backwards(function: Callable[[Task], TaskResult], tasks: Sequence[Task]) -> Iterator[TaskResult]:
    return map(function, [tasks[number] for number in reversed(range(len(tasks)))])


def test_samples_and_rejected_are_all_source_files(source: Path, tmp_path: Path) -> None:
    manifest = make(source, tmp_path / "out")
    assert manifest.source_files == 25
    assert manifest.samples == 23
    assert manifest.rejected == {"wrong_modality": 2}
    assert manifest.series == {
        "series": 6,
        "doubled_positions": {"series": 6, "slices": 23, "first": manifest.series["doubled_positions"]["first"]},
    }
    assert [shard.samples for shard in manifest.shards] == [manifest.shards[n].samples for n in range(4)]
    assert manifest.label_counts["any"] == {"positive": 8, "negative": 15, "unknown": 0}
    assert manifest.label_counts["epidural"] == {"positive": 0, "negative": 23, "unknown": 0}
    opened = DataSet.open(str(tmp_path / "out"))
    paths = set(pq.read_table(tmp_path / "out" / "rejected.parquet").column("path").to_pylist())
    assert paths == {f"stage_2_train/broken_{number}.dcm" for number in range(2)}
    assert set(opened.index.column("key").to_pylist()) == {f"ID_{number:09x}" for number in range(23)}


def test_labels_stay_with_their_slices(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out")
    opened = DataSet.open(str(tmp_path / "out"))
    for key, labels in zip(opened.index.column("key").to_pylist(), opened.labels(), strict=True):
        positive = int(key.removeprefix("ID_"), 16) % 3 == 0
        assert labels.tolist() == [int(positive and label in ("any", "subdural")) for label in LABELS]


def test_the_bytes_do_not_depend_on_processes_or_order(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "one")
    make(source, tmp_path / "two", in_two_processes)
    make(source, tmp_path / "three", backwards)
    expected = content_of(tmp_path / "one")
    assert content_of(tmp_path / "two") == expected
    assert content_of(tmp_path / "three") == expected
    assert not verify(Store.open(tmp_path / "one")).problems


def test_the_order_is_fixed_and_mixes_the_files(source: Path, tmp_path: Path) -> None:
    todo = build.plan(config(source, tmp_path / "out"))
    other = build.plan(config(source, tmp_path / "other", order_key="another"))
    assert isinstance(todo, build.BuildPlan)
    assert isinstance(other, build.BuildPlan)
    order = [file.path for task in todo.tasks for file in task.files]
    assert sorted(order) != order
    assert order != [file.path for task in other.tasks for file in task.files]
    assert sorted(order) == sorted(file.path for task in other.tasks for file in task.files)


def test_labels_of_a_task_are_its_files_labels(source: Path, tmp_path: Path) -> None:
    todo = build.plan(config(source, tmp_path / "out"))
    assert isinstance(todo, build.BuildPlan)
    for task in todo.tasks:
        values = np.frombuffer(task.labels, np.int8).reshape(-1, 6)
        assert len(values) == len(task.files) <= 8
        for file, row in zip(task.files, values, strict=True):
            known = "broken" not in file.path
            assert (row >= 0).all() == known


def test_without_label_file_every_label_is_unknown(tmp_path: Path) -> None:
    source = write_source(tmp_path / "data", 5)
    (source / "stage_2_train.csv").unlink()
    manifest = make(source, tmp_path / "out")
    assert manifest.label_counts == {label: {"positive": 0, "negative": 0, "unknown": 5} for label in LABELS}
    assert pq.read_table(tmp_path / "out" / "index.parquet").column("any").null_count == 5


def test_the_label_file_hidden_files_and_nothing_else_are_left_out(tmp_path: Path) -> None:
    source = write_source(tmp_path / "data", 3)
    (source / ".DS_Store").write_bytes(b"x")
    (source / ".hidden").mkdir()
    (source / ".hidden" / "a.dcm").write_bytes(b"x")
    (source / "notes.txt").write_bytes(b"note")
    manifest = make(source, tmp_path / "out")
    assert (manifest.source_files, manifest.samples, manifest.rejected) == (4, 3, {"not_dicom": 1})


def test_an_unknown_number_of_rejections_leaves_empty_shards_in_place(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    for number in range(6):
        (source / f"{number}.txt").write_text(f"note {number}")
    manifest = make(source, tmp_path / "out", samples_per_shard=2)
    assert (manifest.samples, manifest.rejected) == (0, {"not_dicom": 6})
    assert [shard.samples for shard in manifest.shards] == [0, 0, 0]
    assert not verify(Store.open(tmp_path / "out")).problems


def test_a_name_that_is_no_file_is_counted_and_not_waited_for(tmp_path: Path) -> None:
    source = write_source(tmp_path / "data", 3)
    images = source / "stage_2_train"
    (images / "lost.dcm").symlink_to(tmp_path / "nowhere.dcm")
    (images / "loop.dcm").symlink_to(images / "loop.dcm")
    (images / "linked.dcm").symlink_to(images / "ID_000000000.dcm")
    os.mkfifo(images / "pipe.dcm")
    manifest = make(source, tmp_path / "out")
    assert (manifest.source_files, manifest.samples, manifest.rejected) == (7, 4, {"not_a_file": 3})
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").column("path").to_pylist()
    assert rejected == [f"stage_2_train/{name}.dcm" for name in ("loop", "lost", "pipe")]
    assert manifest.duplicates == 1
    assert not verify(Store.open(tmp_path / "out")).problems


def test_files_that_differ_in_their_suffix_alone_have_keys_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "a"
    folder.mkdir(parents=True)
    names = ("IM1", "IM1.dcm", "IM1.DCM", "IM1.dicom")
    for number, name in enumerate(names):
        (folder / name).write_bytes(dicom_file(hu_image(seed=number), SOPInstanceUID=f"2.25.{number}"))
    make(folder.parent, tmp_path / "out")
    keys = DataSet.open(str(tmp_path / "out")).index.column("key").to_pylist()
    assert sorted(keys) == sorted(f"a/{name.replace('.', '=2E')}" for name in names)
    assert read_manifest(Store.open(tmp_path / "out")).config["key_style"] == "file"
    assert not verify(Store.open(tmp_path / "out")).problems
