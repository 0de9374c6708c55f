from __future__ import annotations

import multiprocessing
import random
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydicom
import pytest
from pydicom.datadict import DicomDictionary, keyword_dict

from hemodist.errors import ConfigError
from hemodist.manifest import LABELS, DataSet, Manifest
from hemodist.store import Store, StoreError
from shards import build, estimate, finalise, pack, record, state
from shards.config import ShardConfig
from shards.verify import verify
from tests.shards.files import KEY, content_of, dataset, dicom_file, hu_image, to_bytes, write_source


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(state.KEY_VARIABLE, KEY)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("data"), 23, broken=2)


def config(source: Path, output: Path, **changes: Any) -> ShardConfig:
    return ShardConfig(**({"source": str(source), "output": str(output), "samples_per_shard": 8, "size": 32} | changes))


def make(source: Path, output: Path, mapper: build.Mapper | None = None, **changes: Any) -> Manifest:
    todo = build.plan(config(source, output, **changes))
    return todo.manifest if isinstance(todo, build.Finished) else build.run(todo, mapper)[0]


def in_two_processes(
    function: Callable[[pack.Task], pack.TaskResult], tasks: Sequence[pack.Task]
) -> Iterator[pack.TaskResult]:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        yield from pool.imap_unordered(function, tasks)


def backwards(
    function: Callable[[pack.Task], pack.TaskResult], tasks: Sequence[pack.Task]
) -> Iterator[pack.TaskResult]:
    return map(function, [tasks[number] for number in reversed(range(len(tasks)))])


def test_samples_and_rejected_are_all_source_files(source: Path, tmp_path: Path) -> None:
    manifest = make(source, tmp_path / "out")
    assert manifest.source_files == 25
    assert manifest.samples == 23
    assert manifest.rejected == {"wrong_modality": 2}
    assert [shard.samples for shard in manifest.shards] == [manifest.shards[n].samples for n in range(4)]
    assert manifest.label_counts["any"] == {"positive": 8, "negative": 15, "unknown": 0}
    assert manifest.label_counts["epidural"] == {"positive": 0, "negative": 23, "unknown": 0}
    opened = DataSet.open(str(tmp_path / "out"))
    paths = set(pq.read_table(tmp_path / "out" / "rejected.parquet").column("path").to_pylist())
    assert paths == {f"stage_2_train/broken_{number}.dcm" for number in range(2)}
    assert set(opened.index.column("key").to_pylist()) == {f"ID_{number:09x}" for number in range(23)}
    assert build.faulty_fraction(manifest) == 2 / 25


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


class Killed(BaseException):
    """As sudden as SIGKILL: nothing catches it."""


@pytest.mark.parametrize("after", [False, True], ids=["before the rename", "after the rename"])
def test_a_run_killed_at_any_write_goes_on_to_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    make(source, tmp_path / "undisturbed")
    expected = content_of(tmp_path / "undisturbed")
    original = Store.write
    writes = 0
    dies_at = 0

    def dying(self: Store, name: str, content: bytes | memoryview) -> None:
        nonlocal writes
        writes += 1
        if writes == dies_at:
            if after:
                original(self, name, content)
            else:
                self.local(name).parent.mkdir(parents=True, exist_ok=True)
                self.local(f"{name}.0.partial").write_bytes(bytes(content)[: len(content) // 2])
            raise Killed
        original(self, name, content)

    monkeypatch.setattr(Store, "write", dying)
    survived = False
    while not survived:
        dies_at, writes = dies_at + 1, 0
        output = tmp_path / f"out_{dies_at}"
        try:
            make(source, output)
            survived = True
        except Killed:
            assert not (output / "manifest.json").exists() or after
            writes = -1000
            make(source, output)
        assert content_of(output) == expected, dies_at
    assert dies_at > 3 * 4 + 3


def test_a_resumed_run_makes_only_what_is_missing_or_damaged(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    todo = build.plan(config(source, output))
    assert isinstance(todo, build.Plan)
    for task in todo.tasks:
        pack.run_task(task)
    tar = output / "shards" / "000001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:700] + b"x" + whole[701:])
    (output / "shards" / "000002.idx").unlink()
    (output / "records" / "000003.parquet").write_bytes(b"PAR1")
    results: list[pack.TaskResult] = []
    again = build.plan(config(source, output))
    assert isinstance(again, build.Plan)
    build.run(again, None, results.append)
    assert [result.resumed for result in results] == [True, False, False, False]
    assert tar.read_bytes() == whole
    assert not verify(Store.open(output)).problems


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": 48}, "size was 32, is 48"),
        ({"windows": ("bone",)}, "windows was"),
        ({"labels": None, "selection": "balanced"}, "selection was"),
        ({"samples_per_shard": 5}, "samples_per_shard was 8, is 5"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_a_changed_configuration_is_an_error_that_names_it(
    source: Path, tmp_path: Path, changes: dict[str, Any], named: str, finished: bool
) -> None:
    todo = build.plan(config(source, tmp_path / "out"))
    assert isinstance(todo, build.Plan)
    if finished:
        build.run(todo)
    before = content_of(tmp_path / "out")
    with pytest.raises(ConfigError, match=named):
        build.plan(config(source, tmp_path / "out", **changes))
    assert content_of(tmp_path / "out") == before


def test_a_changed_source_or_key_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_source(tmp_path / "data", 4)
    build.plan(config(source, tmp_path / "out"))
    monkeypatch.setenv(state.KEY_VARIABLE, KEY[::-1])
    with pytest.raises(ConfigError, match="another pseudonym key"):
        build.plan(config(source, tmp_path / "out"))
    monkeypatch.setenv(state.KEY_VARIABLE, KEY)
    (source / "stage_2_train" / "more.dcm").write_bytes(b"x")
    with pytest.raises(ConfigError, match="source_files was 4, is 5"):
        build.plan(config(source, tmp_path / "out"))


def test_a_finished_data_set_is_left_as_it_is_and_cleared_of_leftovers(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out")
    before = content_of(tmp_path / "out")
    (tmp_path / "out" / "build.json").write_text("{}")
    (tmp_path / "out" / "shards" / "000000.tar.1.partial").write_text("half")
    assert isinstance(build.plan(config(source, tmp_path / "out")), build.Finished)
    assert content_of(tmp_path / "out") == before


def test_other_library_versions_may_look_at_a_finished_data_set_but_not_go_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(source, tmp_path / "finished")
    build.plan(config(source, tmp_path / "begun"))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0")
    assert isinstance(build.plan(config(source, tmp_path / "finished")), build.Finished)
    with pytest.raises(ConfigError, match="versions was"):
        build.plan(config(source, tmp_path / "begun"))


def test_a_fresh_key_is_kept_while_unfinished_and_gone_afterwards(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(state.KEY_VARIABLE)
    output = tmp_path / "out"
    todo = build.plan(config(source, output))
    assert isinstance(todo, build.Plan)
    fresh = (output / state.KEY_FILE).read_text()
    assert stat.S_IMODE((output / state.KEY_FILE).stat().st_mode) == 0o600
    pack.run_task(todo.tasks[0])
    again = build.plan(config(source, output))
    assert isinstance(again, build.Plan)
    assert again.tasks[0] == todo.tasks[0]
    build.run(again)
    assert not any(fresh.encode() in content for content in content_of(output).values())
    other = make(source, tmp_path / "other")
    assert other.index_sha256 != make(source, output).index_sha256


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


def test_balanced_takes_every_positive_and_as_many_negatives(source: Path, tmp_path: Path) -> None:
    manifest = make(source, tmp_path / "out", selection="balanced")
    assert manifest.label_counts["any"] == {"positive": 8, "negative": 8, "unknown": 0}
    assert manifest.rejected == {"not_selected": 9}
    assert manifest.source_files == 25
    assert build.faulty_fraction(manifest) == 0


def test_a_list_takes_exactly_its_ids(source: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("ID_000000003\n\nID_000000004\nID_missing\n")
    todo = build.plan(config(source, tmp_path / "out", selection="list", ids=str(ids)))
    assert isinstance(todo, build.Plan)
    assert todo.facts["listed ids without a file"] == 1
    build.run(todo)
    index = DataSet.open(str(tmp_path / "out")).index
    assert sorted(index.column("key").to_pylist()) == ["ID_000000003", "ID_000000004"]


def test_a_slice_that_appears_twice_is_stored_twice_and_used_once(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    for name in ("a", "b", "c"):
        (source / f"{name}.dcm").write_bytes(dicom_file(SOPInstanceUID="2.25.7" if name != "c" else "2.25.8"))
    manifest = make(source, tmp_path / "out")
    index = DataSet.open(str(tmp_path / "out")).index
    assert manifest.duplicates == 1
    copies = index.filter(pc.field("duplicate"))
    assert copies.column("key").to_pylist()[0] in ("a", "b")
    first = [key for key in index.column("key").to_pylist() if key in ("a", "b")]
    assert copies.column("key").to_pylist() == first[1:]


def rows(entries: list[tuple[str | None, str | None, bytes, int | None]]) -> pa.Table:
    """Samples with (patient, study, image, `any`)."""
    made = []
    for number, (patient, study, image, label) in enumerate(entries):
        row: dict[str, Any] = dict.fromkeys(record.SCHEMA.names, 0)
        row |= {"key": str(number), "uid": str(number), "patient": patient, "study": study, "series": None}
        row |= {"pixel_digest": image.ljust(16, b"\0"), "path": "", "reason": None, "detail": None}
        row |= dict.fromkeys(LABELS, label)
        made.append(row)
    return pa.Table.from_pylist(made, record.SCHEMA)


def test_groups_join_patients_that_share_an_image() -> None:
    entries = [
        ("p1", "s1", b"a", 0), ("p2", "s2", b"b", 0), ("p2", "s2", b"c", 1),
        ("p3", "s3", b"c", 0), ("p3", "s3", b"d", 0), ("p4", "s4", b"d", 0), ("p1", "s1", b"e", 0),
    ]  # fmt: skip
    index, shared = finalise.make_index(rows(entries))
    assert index.column("group").to_pylist() == [0, 1, 1, 1, 1, 1, 0]
    assert shared == finalise.SharedImages(images=2, samples=4, patients_joined=3, conflicting=1)


def test_without_a_patient_the_study_and_then_the_slice_is_the_group() -> None:
    entries = [(None, "s1", b"a", 0), (None, "s1", b"b", 0), (None, None, b"c", 0), (None, None, b"d", 0)]
    index, _ = finalise.make_index(rows([*entries, ("s1", None, b"e", 0)]))
    assert index.column("group").to_pylist() == [0, 0, 1, 2, 3]


def test_groups_are_the_components_of_any_random_graph() -> None:
    draw = random.Random(3)
    entries = [(f"p{draw.randrange(60)}", None, b"%d" % draw.randrange(90), 0) for _ in range(120)]
    index, _ = finalise.make_index(rows(entries))
    group = list(range(len(entries)))
    for _ in entries:  # The plain way: hand the smallest number on until nothing changes.
        for part in (0, 2):
            least: dict[Any, int] = {}
            for entry, number in zip(entries, group, strict=True):
                least[entry[part]] = min(number, least.get(entry[part], number))
            group = [least[entry[part]] for entry in entries]
    dense = {number: rank for rank, number in enumerate(dict.fromkeys(group))}
    assert index.column("group").to_pylist() == [dense[number] for number in group]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "missing"}, "is not a folder"),
        ({"size": 0}, "size is 0"),
        ({"windows": ("brain", "bone")}, "2 windows"),
        ({"quality": 101}, "quality is 101"),
        ({"selection": "list"}, "belong together"),
        ({"labels": "missing.csv"}, "does not exist"),
        ({"key_file": "missing"}, "does not exist"),
        ({"max_rejected_fraction": 2.0}, "share from 0 to 1"),
        ({"workers": -1}, "workers is -1"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_is_written(
    source: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    settings: dict[str, Any] = {"source": str(source), "output": str(tmp_path / "out")} | changes
    for name in ("source", "labels", "key_file"):
        if str(settings.get(name)).startswith("missing"):
            settings[name] = str(tmp_path / "missing")
    with pytest.raises(ConfigError, match=message):
        build.plan(ShardConfig(**settings))
    assert not content_of(tmp_path)


def test_an_output_in_the_source_or_of_something_else_is_refused(source: Path, tmp_path: Path) -> None:
    for output in (source, source / "stage_2_train" / "out"):
        with pytest.raises(ConfigError, match="lies in the source"):
            build.plan(config(source, output))
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no data set"):
        build.plan(config(source, tmp_path))
    assert content_of(tmp_path) == {"thesis.txt": b"mine"}


def test_an_output_that_cannot_be_written_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot"):
        build.plan(config(source, tmp_path / "file" / "out"))


def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(ConfigError, match="no file below"):
        build.plan(config(tmp_path / "data", tmp_path / "out"))


def planted(vr: str, number: int) -> Any:
    """A value of a kind that tells who somebody is, for an element of this VR."""
    return {
        "PN": f"Zzyzx^Person{number}", "DA": "19310203", "TM": "030201.99", "DT": "19310203030201",
        "AS": "093Y", "UI": f"2.25.77{number}77", "IS": "77077077", "DS": "77077.077",
    }.get(vr, f"ZZYZX{number}")  # fmt: skip


def test_nothing_planted_in_any_element_reaches_any_output(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    kept = {"Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "Modality"}
    kept |= {"ImageType", "PhotometricInterpretation", "RescaleSlope", "RescaleIntercept", "RescaleType"}
    kept |= {"NumberOfFrames", "SOPClassUID", "SpecificCharacterSet"}
    texts = {"PN", "LO", "SH", "LT", "ST", "UT", "UC", "DA", "TM", "DT", "AS", "UI", "IS", "DS", "CS", "AE"}
    made = dataset(hu_image())
    number = 0
    with pydicom.config.disable_value_validation():
        for keyword in sorted(keyword_dict):
            tag = keyword_dict[keyword]
            vr = DicomDictionary[tag][0]
            if vr in texts and keyword not in kept and tag >> 16 > 2 and "PixelData" not in keyword:
                number += 1
                made.add_new(tag, vr, planted(vr, number))
        made.add_new(0x00091001, "LO", "ZZYZX private")
        made.private_block(0x0011, "ZZYZX maker", create=True)
    assert number > 1000
    (source / "good.dcm").write_bytes(to_bytes(made))
    made.Modality = "ZZYZX"
    (source / "bad.dcm").write_bytes(to_bytes(made))
    made.ImageType, made.Modality = ["ZZYZX", "ZZYZX", "LOCALIZER"], "CT"
    (source / "bad2.dcm").write_bytes(to_bytes(made))
    manifest = make(source, tmp_path / "out", encoding="png")
    assert (manifest.samples, sum(manifest.rejected.values())) == (1, 2)
    output = content_of(tmp_path / "out")
    for name in ("index.parquet", "rejected.parquet"):  # their columns are compressed
        output[f"{name} as text"] = str(pq.read_table(tmp_path / "out" / name).to_pylist()).encode()
    for name, content in output.items():
        for secret in (b"ZZYZX", b"Zzyzx", b"19310203", b"030201", b"093Y", b"2.25.77", b"77077"):
            assert secret not in content, (name, secret)


def test_the_order_is_fixed_and_mixes_the_files(source: Path, tmp_path: Path) -> None:
    todo = build.plan(config(source, tmp_path / "out"))
    other = build.plan(config(source, tmp_path / "other", order_key="another"))
    assert isinstance(todo, build.Plan)
    assert isinstance(other, build.Plan)
    order = [file.path for task in todo.tasks for file in task.files]
    assert sorted(order) != order
    assert order != [file.path for task in other.tasks for file in task.files]
    assert sorted(order) == sorted(file.path for task in other.tasks for file in task.files)


def test_labels_of_a_task_are_its_files_labels(source: Path, tmp_path: Path) -> None:
    todo = build.plan(config(source, tmp_path / "out"))
    assert isinstance(todo, build.Plan)
    for task in todo.tasks:
        values = np.frombuffer(task.labels, np.int8).reshape(-1, 6)
        assert len(values) == len(task.files) <= 8
        for file, row in zip(task.files, values, strict=True):
            known = "broken" not in file.path
            assert (row >= 0).all() == known


def test_a_dry_run_writes_nothing_and_tells_what_would_come_out(source: Path, tmp_path: Path) -> None:
    todo = build.plan(config(source, tmp_path / "out", dry_run=True))
    assert isinstance(todo, build.Plan)
    told = estimate.estimate(todo, cpus=4, count=25)
    assert not content_of(tmp_path)
    assert not (tmp_path / "out").exists()
    assert told["samples"] == "about 23 of 25 files"
    assert told["shards"] == 4
    assert told["expected rejections"] == {"wrong_modality": "about 2"}
    manifest = make(source, tmp_path / "out")
    written = sum(shard.bytes for shard in manifest.shards) - 4 * 1024
    assert told["bytes"] == f"about {written:,}"
