from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hemodist.dataset.dataset import DataSet
from hemodist.plan.prepare import usable
from hemodist.storage.store import Store
from shards.building import build
from shards.building.groups import MAX_VERSIONS
from shards.building.index import SharedImages, make_index
from shards.inspect.verify import verify
from tests.support.builds import config, make, record_of
from tests.support.dicom_files import dicom_file, hu_image, write_source


def test_a_slice_that_appears_twice_is_stored_twice_and_used_once(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    for name in ("a", "b", "c"):
        (source / f"{name}.dcm").write_bytes(dicom_file(SOPInstanceUID="2.25.7" if name != "c" else "2.25.8"))
    manifest = make(source, tmp_path / "out")
    index = DataSet.open(str(tmp_path / "out")).index
    assert manifest.duplicates == 1
    duplicates = index.filter(pc.field("duplicate"))
    assert duplicates.column("key").to_pylist()[0] in ("a", "b")
    first = [key for key in index.column("key").to_pylist() if key in ("a", "b")]
    assert duplicates.column("key").to_pylist() == first[1:]


def test_of_a_slice_and_its_renamed_copy_the_labelled_one_is_used(tmp_path: Path) -> None:
    source = write_source(tmp_path / "data", 24)
    images = source / "stage_2_train"
    for path in sorted(images.iterdir()):
        (images / f"{path.stem} copy.dcm").write_bytes(path.read_bytes())
    manifest = make(source, tmp_path / "out")
    opened = DataSet.open(str(tmp_path / "out"))
    assert (manifest.samples, manifest.duplicates) == (48, 24)
    assert {"=20" in key for key in opened.index.filter(pc.field("duplicate")).column("key").to_pylist()} == {True}
    assert int(np.count_nonzero(usable(opened))) == 24
    assert not verify(Store.open(tmp_path / "out")).problems


def test_different_images_of_one_identifier_are_all_used_and_counted(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    for number in range(9):
        changes = {"PatientID": f"p{number}", "StudyInstanceUID": f"2.25.{number}", "SOPInstanceUID": "2.25.7"}
        changes["SeriesInstanceUID"] = f"2.25.1.{number}"
        (source / f"{number}.dcm").write_bytes(dicom_file(hu_image(seed=number), **changes))
    todo = build.plan(config(source, tmp_path / "out"))
    assert isinstance(todo, build.BuildPlan)
    manifest, shared = build.run(todo)
    assert (manifest.samples, manifest.duplicates) == (9, 0)
    assert shared is not None
    assert shared.shared_identifiers == 1
    assert 1 in build.summary(manifest, shared).values()
    # One for all says nothing of the patients.
    assert len(set(DataSet.open(str(tmp_path / "out")).index.column("group").to_pylist())) == 9


def rows(
    entries: list[tuple[str | None, str | None, bytes, int | None]], uids: Sequence[str | None] | None = None
) -> pa.Table:
    """Samples with (patient, study, image, `any`), each with a UID of its own by default."""
    names = [str(number) for number in range(len(entries))] if uids is None else uids
    return record_of(
        [
            {"patient": patient, "study": study, "slice": name, "image": image, "label": label}
            for (patient, study, image, label), name in zip(entries, names, strict=True)
        ]
    )


def test_of_copies_the_one_with_most_labels_is_used_and_else_the_first() -> None:
    entries = [
        ("p", "s", b"a", None), ("p", "s", b"a", 1), ("p", "s", b"a", 1),
        ("p", "s", b"b", 0), ("p", "s", b"b", 1), ("p", "s", b"c", None), ("p", "s", b"c", None),
        ("p", "s", b"d", 0), ("p", "s", b"d", 0), ("p", "s", b"e", 0),
    ]  # fmt: skip
    uids = ["a", "a", "a", "b", "b", "c", "c", None, None, "c"]
    made = make_index(rows(entries, uids))
    index, shared = made.index, made.shared
    used = [not duplicate for duplicate in index.column("duplicate").to_pylist()]
    assert used == [False, True, False, True, False, True, False, True, True, True]
    assert (shared.conflicting_duplicates, shared.shared_identifiers) == (1, 1)
    assert shared.conflicting == 0


def test_groups_join_patients_who_share_an_identifier_of_few_images() -> None:
    entries = [(f"p{number}", None, b"%d" % number, 0) for number in range(3 + MAX_VERSIONS + 1)]
    uids = ["x", "x", "y"] + ["z"] * (MAX_VERSIONS + 1)
    made = make_index(rows(entries, uids))
    index, shared = made.index, made.shared
    assert index.column("group").to_pylist() == [0, 0, *range(1, 2 + MAX_VERSIONS + 1)]
    assert shared.shared_identifiers == 2
    assert not any(index.column("duplicate").to_pylist())


def test_groups_join_patients_that_share_an_image() -> None:
    entries = [
        ("p1", "s1", b"a", 0), ("p2", "s2", b"b", 0), ("p2", "s2", b"c", 1),
        ("p3", "s3", b"c", 0), ("p3", "s3", b"d", 0), ("p4", "s4", b"d", 0), ("p1", "s1", b"e", 0),
    ]  # fmt: skip
    made = make_index(rows(entries))
    index, shared = made.index, made.shared
    assert index.column("group").to_pylist() == [0, 1, 1, 1, 1, 1, 0]
    assert shared == SharedImages(images=2, samples=4, conflicting=1)


def test_without_a_patient_the_study_and_then_the_slice_is_the_group() -> None:
    entries = [(None, "s1", b"a", 0), (None, "s1", b"b", 0), (None, None, b"c", 0), (None, None, b"d", 0)]
    index = make_index(rows([*entries, ("s1", None, b"e", 0)])).index
    assert index.column("group").to_pylist() == [0, 0, 1, 2, 3]
