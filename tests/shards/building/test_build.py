from __future__ import annotations

import multiprocessing
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.dataset.manifest import read_manifest
from hemodist.errors import ConfigError
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


def two_series(folder: Path) -> Path:
    """Five files of three patients; `1-01` and `1-02` are names in two folders."""
    for number, path in enumerate(("first/1-01", "first/1-02", "second/1-01", "second/1-02", "third/2-07")):
        target = folder / f"{path}.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        patient = {"PatientID": path[:3], "StudyInstanceUID": path[:3], "SeriesInstanceUID": path[:3]}
        target.write_bytes(dicom_file(hu_image(seed=number), SOPInstanceUID=f"2.25.{number}", **patient))
    return folder


@pytest.mark.parametrize("twin", ["second/1-01.dcm", "first/1-01.dicom", "1-01.dcm", "first/deeper/1-01"])
def test_a_row_labels_no_file_whose_name_another_one_has(tmp_path: Path, twin: str) -> None:
    csv, folder = tmp_path / "labels.csv", tmp_path / "data"
    csv.write_text("ID,Label\n" + "".join(f"{name}_{label},1\n" for name in ("1-01", "2-07") for label in LABELS))
    for number, name in enumerate(("first/1-01.dcm", twin, "third/2-07.dcm")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(dicom_file(hu_image(seed=number), SOPInstanceUID=f"2.25.{number}"))
    assert make(folder, tmp_path / "out", labels=str(csv)).label_counts["any"] == {
        "positive": 1, "negative": 0, "unknown": 2,
    }  # fmt: skip


def test_a_row_never_labels_two_files(tmp_path: Path) -> None:
    csv = tmp_path / "labels.csv"
    csv.write_text("ID,Label\n" + "".join(f"{name}_{label},1\n" for name in ("1-01", "2-07") for label in LABELS))
    todo = build.plan(config(two_series(tmp_path / "data"), tmp_path / "out", labels=str(csv)))
    assert isinstance(todo, build.BuildPlan)
    assert todo.facts["labels of a name that several files have"] == 1
    manifest, _ = build.run(todo)
    assert manifest.label_counts["any"] == {"positive": 1, "negative": 0, "unknown": 4}


def test_a_label_file_of_other_images_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = two_series(tmp_path / "data")
    (tmp_path / "stage_2_train.csv").write_text("ID,Label\nID_1_any,1\n")
    with pytest.raises(ConfigError, match=r"stage_2_train.csv labels none of the 5 files"):
        build.plan(config(source, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert make(source, tmp_path / "out", labels="no").label_counts["any"]["unknown"] == 5


def test_labels_of_nothing_but_rejected_files_make_no_data_set(tmp_path: Path) -> None:
    source = write_source(tmp_path / "data", 3, broken=1)
    (source / "stage_2_train.csv").write_text("ID,Label\nbroken_0_any,1\n")
    with pytest.raises(ConfigError, match="none of the 3 samples has a label"):
        make(source, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_zipped_label_file_in_the_source_labels_it_and_is_no_source_file(tmp_path: Path) -> None:
    source = write_source(tmp_path / "data", 5)
    csv = source / "stage_2_train.csv"
    with zipfile.ZipFile(source / "stage_2_train.csv.zip", "w") as archive:
        archive.write(csv, csv.name)
    csv.unlink()
    manifest = make(source, tmp_path / "out")
    assert (manifest.source_files, manifest.rejected) == (5, {})
    assert manifest.label_counts["any"] == {"positive": 2, "negative": 3, "unknown": 0}
