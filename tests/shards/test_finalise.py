from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hemodist.manifest import LABELS, DataSet
from shards import finalise, record
from tests.shards.builds import make
from tests.shards.files import dicom_file


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
