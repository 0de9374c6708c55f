"""What lies in a folder beside the slices: counted apart from what is faulty, and named."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.manifest import DatasetError, read_manifest
from hemodist.errors import ConfigError
from hemodist.storage.store import Store
from jobs import shard
from shards.__main__ import main
from shards.building import build, for_prediction
from shards.dicom.read import read_slice
from shards.dicom.reasons import Kind, Reason, Rejected, kind_of
from shards.inspect import rejections
from shards.packing.source_files import File
from shards.packing.task import MAX_FILE_BYTES, read_source
from tests.support.builds import config
from tests.support.dicom_files import CT, dataset, dicom_file, hu_image, to_bytes

DIRECTORY, DOSE, PDF = "1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.5.1.4.1.1.104.1"


def without_pixels(kind: str | None, modality: str | None = None, **meta: str) -> bytes:
    made = dataset(hu_image(), SOPClassUID=kind, Modality=modality, ImageType=None)
    del made.PixelData
    made.file_meta.MediaStorageSOPClassUID = meta.get("meta", kind or CT)
    return to_bytes(made)


def zip_of(content: bytes, method: int = zipfile.ZIP_DEFLATED, name: str = "a.dcm") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


BESIDE: dict[str, tuple[bytes, str]] = {
    "DICOMDIR": (without_pixels(None, meta=DIRECTORY), "no_image"),
    "SR1": (without_pixels(DOSE, "SR"), "no_image"),
    "PDF1": (without_pixels(PDF, "DOC"), "no_image"),
    "SR2": (without_pixels(None, "SR"), "wrong_modality"),
    "IM2": (dicom_file(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localizer"),
    "IM3": (dicom_file(Modality="MR"), "wrong_modality"),
    "IM4": (dicom_file(np.zeros((2, 8, 8), np.int16), Modality="NM", NumberOfFrames=2), "wrong_modality"),
    "IM5": (dicom_file(np.zeros((8, 8, 3), np.uint8), SamplesPerPixel=3, PhotometricInterpretation="RGB"), "colour"),
    "AUTORUN.INF": (b"[autorun]", "not_dicom"),
    "viewer/Viewer.exe": (b"MZ" + bytes(99), "not_dicom"),
    "viewer/Thumbs.db": (b"\xd0\xcf\x11\xe0", "not_dicom"),
    "viewer/viewer.jar": (zip_of(b"", name="META-INF/MANIFEST.MF"), "not_dicom"),
    "report.docx": (zip_of(b"<a/>", name="[Content_Types].xml"), "not_dicom"),
    "masks/IM1.npz": (zip_of(bytes(99), name="bleed.npy"), "not_dicom"),
    "notes.txt": (b"Exported on a Friday.", "not_dicom"),
}
"""Files of an ordinary export that are in order, and no slices."""


def write_cd(folder: Path, slices: int = 8) -> Path:
    files = {f"DICOM/IM{number:04}": dicom_file(hu_image(seed=number), SOPInstanceUID=f"2.25.4{number}",
             ImagePositionPatient=["0", "0", str(5 * number)]) for number in range(slices)}  # fmt: skip
    for name, content in (files | {name: content for name, (content, _) in BESIDE.items()}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def job(monkeypatch: pytest.MonkeyPatch, source: Path, output: Path) -> int:
    arguments = ["--source", source, "--output", output, "--workers", "0", "--size", "32"]
    monkeypatch.setattr(sys, "argv", ["shard.py", *map(str, arguments)])
    return shard.main()


def test_an_ordinary_cd_is_no_failure_and_everything_on_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job(monkeypatch, write_cd(tmp_path / "cd"), tmp_path / "out") == 0
    said = capsys.readouterr().out
    rows = rejections.read(Store.open(tmp_path / "out"))
    assert {path: reason for path, reason, _ in rows} == {name: reason for name, (_, reason) in BESIDE.items()}
    assert {kind_of(reason, path) for path, reason, _ in rows} == {Kind.NO_SLICE}
    assert all(name in said for name in ("DICOMDIR", "IM2", "IM5", "AUTORUN.INF"))
    assert "viewer/Viewer.exe" not in said  # the fourth of its reason
    assert main(["show", str(tmp_path / "out"), "--rejected"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{reason}  {name}" in listed for name, (_, reason) in BESIDE.items())


def test_prediction_tells_the_same_files_from_faulty_ones(tmp_path: Path) -> None:
    (draw,) = for_prediction.chunks(str(write_cd(tmp_path / "cd")))
    drawn = draw({"size": 32, "windows": [{"name": "brain"}], "encoding": "png", "quality": None, "crop_head": False})
    rows = [(one.path, one.reason, one.detail) for one in drawn if one.reason]
    assert (len(drawn) - len(rows), len(rows), rejections.faulty(rows)) == (8, len(BESIDE), 0)


@pytest.mark.parametrize(("name", "content"), [
    ("IM9", dicom_file()[:400]),
    ("IM9", without_pixels(None)),
    ("IM9", without_pixels(CT, "CT")),
    ("IM9.dcm", b"<html>404</html>"),
    ("IM9", bytes(1000)),
    ("IM9.dcm", b""),
    ("IM9.dcm", dicom_file(np.zeros((2, 8, 8), np.int16), NumberOfFrames=2)),
])  # fmt: skip
def test_what_may_have_been_a_slice_stays_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    (write_cd(tmp_path / "cd") / name).write_bytes(content)
    assert job(monkeypatch, tmp_path / "cd", tmp_path / "out") == build.EXIT_TOO_MANY_REJECTED
    assert rejections.faulty_fraction(8, rejections.read(Store.open(tmp_path / "out"))) == 1 / 9


def tar_of(content: bytes, mode: Any = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        member = tarfile.TarInfo("a.dcm")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(("pack", "kind"), [
    (gzip.compress, "gzip"),
    (zip_of, "zip"),
    (lambda content: zip_of(content, zipfile.ZIP_STORED), "zip"),  # in which DICOM's identifiers can be read
    (tar_of, "tar"),
    (lambda content: tar_of(content, "w:gz"), "gzip"),
    (bz2.compress, "bzip2"),
    (lzma.compress, "xz"),
    (lambda content: b"7z\xbc\xaf\x27\x1c" + content, "7z"),
])  # fmt: skip
def test_an_archive_says_that_it_must_be_unpacked(pack: Callable[[bytes], bytes], kind: str) -> None:
    found = read_slice(pack(dicom_file()))
    assert isinstance(found, Rejected)
    assert (found.reason, found.detail.split(" of ")[0]) == (Reason.PACKED, kind)
    assert "unpack" in found.detail
    assert kind_of(found.reason, "all.zip") == Kind.FAULTY


def test_an_archive_too_large_to_be_read_says_so_as_well(tmp_path: Path) -> None:
    for name, reason in {"rsna.ZIP": Reason.PACKED, "rsna.dcm": Reason.ABSURD_SIZE}.items():
        found = read_source(Store.open(tmp_path), File(name, MAX_FILE_BYTES + 1))
        assert isinstance(found, Rejected)
        assert found.reason == reason


def test_hidden_files_and_folders_are_counted(tmp_path: Path) -> None:
    source = write_cd(tmp_path / "cd")
    for name in (".DS_Store", "DICOM/.IM0001.swp", ".Trash/a.dcm"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"x")
    todo = build.plan(config(source, tmp_path / "out"))
    assert isinstance(todo, build.BuildPlan)
    assert todo.facts["hidden files and folders, left out"] == 3
    (tmp_path / "only" / ".hidden").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"no file below .* but 1 hidden"):
        build.plan(config(tmp_path / "only", tmp_path / "none"))


def test_a_source_without_a_slice_is_an_error_and_no_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = write_cd(tmp_path / "cd", slices=0), tmp_path / "out"
    for _ in range(2):  # what is finished is judged again
        with pytest.raises(ConfigError, match=r"no file is a slice.* 7 not_dicom \(AUTORUN.INF\)"):
            job(monkeypatch, source, output)
    assert read_manifest(Store.open(output)).samples == 0
    with pytest.raises(DatasetError, match="holds no sample"):
        DataSet.open(str(output))
    assert main(["show", str(output), "--rejected"]) == 0
    assert "no_image  DICOMDIR" in capsys.readouterr().out


@pytest.mark.parametrize(("place", "message"), [("missing", "does not exist"), ("notes.txt", "a file, not a folder")])
def test_a_source_that_is_no_folder_is_told_for_what_it_is(tmp_path: Path, place: str, message: str) -> None:
    source = write_cd(tmp_path / "cd") / place
    for attempt in (lambda: for_prediction.chunks(str(source)), lambda: build.plan(config(source, tmp_path / "out"))):
        with pytest.raises(ConfigError, match=message):
            attempt()
