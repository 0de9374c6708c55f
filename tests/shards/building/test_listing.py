from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hemodist.dataset.dataset import DataSet
from hemodist.storage.store import Store, shown
from shards.building import build, for_prediction
from shards.building.listing import list_files
from shards.inspect.verify import verify
from tests.support.builds import config, make
from tests.support.dicom_files import content_of, dicom_file, hu_image, write_source

LATIN = os.fsdecode(b"M\xfcller")


def paths(source: Path, without: str | None = None) -> list[str]:
    return [file.path for file in list_files(Store.open(source), without).files]


def test_names_that_are_not_utf_8_are_read_labelled_and_rejected_like_others(tmp_path: Path) -> None:
    source = write_source(tmp_path / "data", 3)
    images = source / "stage_2_train"
    (images / f"{LATIN}.dcm").write_bytes(dicom_file(hu_image(seed=9), SOPInstanceUID="2.25.9"))
    (images / f"{LATIN}.txt").write_text("note")
    (images / LATIN).mkdir()
    (images / LATIN / "a.dcm").write_bytes(dicom_file(hu_image(seed=8), SOPInstanceUID="2.25.8"))
    todo = build.plan(config(source, tmp_path / "out"))
    assert isinstance(todo, build.BuildPlan)
    assert todo.facts["files without labels"] == 3
    manifest, _ = build.run(todo)
    assert (manifest.source_files, manifest.samples, manifest.rejected) == (6, 5, {"not_dicom": 1})
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").column("path").to_pylist()
    assert rejected == ["stage_2_train/M\\xfcller.txt"]
    keys = DataSet.open(str(tmp_path / "out")).index.column("key").to_pylist()
    assert {"M=FCller", "a"} < set(keys)
    assert not verify(Store.open(tmp_path / "out")).problems


def test_names_that_are_not_utf_8_are_left_out_by_a_selection_and_known_on_resuming(tmp_path: Path) -> None:
    source = write_source(tmp_path / "data", 3)
    (source / f"{LATIN}.txt").write_text("note")
    (source / "ids.txt").write_text("ID_000000001\n")
    make(source, tmp_path / "one", selection="list", ids=str(source / "ids.txt"))
    assert "M\\xfcller.txt" in pq.read_table(tmp_path / "one" / "rejected.parquet").column("path").to_pylist()
    for resumed in (False, True):
        todo = build.plan(config(source, tmp_path / "out"))
        assert isinstance(todo, build.BuildPlan)
        assert [result.resumed for result in map(build.task.run_task, todo.tasks)] == [resumed]


def test_names_that_are_not_utf_8_are_predicted(tmp_path: Path) -> None:
    source = write_source(tmp_path / "data", 1)
    (source / f"{LATIN}.dcm").write_bytes(dicom_file())
    (source / f"{LATIN}.txt").write_text("note")
    (draw,) = for_prediction.chunks(str(source))
    windows = [{"name": "brain"}]
    drawn = draw({"size": 32, "windows": windows, "encoding": "png", "quality": None, "crop_head": False})
    assert {(one.path, bool(one.encoded)) for one in drawn} == {
        ("M\\xfcller.dcm", True), ("M\\xfcller.txt", False), ("stage_2_train/ID_000000000.dcm", True),
    }  # fmt: skip


def test_an_error_names_a_file_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"cannot read .*M\\xfcller") as caught:
        Store.open(tmp_path).read(LATIN)
    str(caught.value).encode()
    with pytest.raises(Exception, match=r"cannot look at .*M\\xfcller"):
        Store.open(tmp_path).size(LATIN)


def test_each_folder_is_listed_once_wherever_links_lead(tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (source / "a", source / ".hidden", elsewhere / "sub"):
        folder.mkdir(parents=True)
        (folder / "x.dcm").write_bytes(b"x")
    (tmp_path / "beside.dcm").write_bytes(b"x")
    (source / "a" / "parent").symlink_to(source)
    (source / "above").symlink_to(tmp_path)
    (source / "again").symlink_to(source / "a")
    (source / "b_linked").symlink_to(elsewhere / "sub")
    (source / "linked").symlink_to(elsewhere)
    (source / "shown").symlink_to(source / ".hidden")
    (elsewhere / "round").symlink_to(elsewhere)
    (elsewhere / "y.dcm").write_bytes(b"x")
    assert paths(source) == ["a/x.dcm", "b_linked/x.dcm", "linked/y.dcm", "shown/x.dcm"]


def test_what_looks_unfinished_in_a_source_is_counted(tmp_path: Path) -> None:
    source = write_source(tmp_path / "data", 3)
    (source / "x.dcm.partial").write_bytes(b"half")
    manifest = make(source, tmp_path / "out")
    assert (manifest.source_files, manifest.samples, manifest.rejected) == (4, 3, {"not_dicom": 1})


@pytest.mark.parametrize("how", ["absolute", "relative", "through a link", "a link", "file://"])
def test_a_label_file_in_the_source_is_no_slice_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    source = write_source(tmp_path / "data", 3)
    table = (source / "stage_2_train.csv").rename(source / "mine.csv")
    named = str(table)
    if how == "relative":
        monkeypatch.chdir(tmp_path)
        named = "data/../data/mine.csv"
    elif how == "through a link":
        (tmp_path / "link").symlink_to(source)
        named = str(tmp_path / "link" / "mine.csv")
    elif how == "a link":
        table.rename(tmp_path / "elsewhere.csv")
        table.symlink_to(tmp_path / "elsewhere.csv")
    elif how == "file://":
        named = f"file://{table}"
    manifest = make(source, tmp_path / "out", labels=named)
    assert (manifest.source_files, manifest.rejected) == (3, {})
    assert manifest.label_counts["any"]["positive"] == 1


def test_names_and_sizes_are_those_of_the_store(source: Path) -> None:
    listed = [(file.path, file.size) for file in list_files(Store.open(source)).files]
    assert listed == Store.open(source).list()
    assert shown("ü") == "ü"
    assert content_of(source).keys() == {path for path, _ in listed}
