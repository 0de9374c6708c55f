"""Corrected labels: a review that a reader has filled in goes into the index, and nothing wrong goes in in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.errors import ConfigError
from shards.building import build, corrections
from shards.building.options import ShardConfig
from shards.phantom import generate
from tests.support.builds import make

HEADER = ",".join(["id", "why", *(f"correct_{label}" for label in LABELS)])


def written(folder: Path, *rows: str, header: str = HEADER) -> str:
    (folder / "review.csv").write_text("\n".join([header, *rows]) + "\n")
    return str(folder / "review.csv")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return generate.generate(tmp_path_factory.mktemp("corrections"), slices=12, size=64, workers=1).images


def labels_by_key(folder: Path) -> dict[str, list[int]]:
    dataset = DataSet.open(str(folder))
    return dict(zip(dataset.index.column("key").to_pylist(), dataset.labels().tolist(), strict=True))


def test_corrected_labels_stand_in_the_index_and_are_counted_and_all_others_are_as_they_were(source, tmp_path):
    make(source, tmp_path / "before")
    before = labels_by_key(tmp_path / "before")
    first, second = sorted(before)[:2]
    other = 1 - before[first][0]
    agreed = before[second][5]
    file = written(
        tmp_path, f"{first},near,{other},,,,,", f"{second},near,,,,,,{agreed}", f"{first},again,{other}.0,,,,,"
    )
    manifest = make(source, tmp_path / "after", corrections=file)
    assert labels_by_key(tmp_path / "after") == before | {first: [other, *before[first][1:]]}
    shown = build.summary(manifest)
    assert shown["corrected labels"] == "1 of 1 slices"
    assert shown["corrections that say what the label file says"] == 1
    assert manifest.config["corrections"]["sha256"]


def test_a_file_without_an_entry_changes_no_label(source, tmp_path):
    make(source, tmp_path / "before")
    before = labels_by_key(tmp_path / "before")
    make(source, tmp_path / "after", corrections=written(tmp_path, *(f"{key},x,,,,,," for key in before)))
    assert labels_by_key(tmp_path / "after") == before


def test_a_balanced_selection_is_made_of_the_corrected_labels(source, tmp_path):
    make(source, tmp_path / "before")
    before = labels_by_key(tmp_path / "before")
    positive = [key for key, values in before.items() if values[0] == 1]
    gone = written(tmp_path, *(f"{key},x,0,0,0,0,0,0" for key in positive[1:]))
    make(source, tmp_path / "after", corrections=gone, selection="balanced")
    after = labels_by_key(tmp_path / "after")
    assert len(after) == 2
    assert positive[0] in after


def test_the_same_output_with_other_corrections_is_refused(source, tmp_path):
    make(source, tmp_path / "out")
    key = sorted(labels_by_key(tmp_path / "out"))[0]
    file = written(tmp_path, f"{key},x,1,,,,,1")
    with pytest.raises(ConfigError, match="corrections"):
        make(source, tmp_path / "out", corrections=file)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["nobody,x,1,,,,,"], r"review.csv, row 2: 'nobody' is the id of no slice of the source"),
        (["{key},x,,,2,,,"], r"row 2 \(the header is row 1\): '2' as correct_intraparenchymal of {key} is no label"),
        (["{key},x,,,perhaps,,,"], r"row 2 .*'perhaps' as correct_intraparenchymal"),
        (["{key},x,1,,,,,", "", "{key},x,0,,,,,"], r"row 4: correct_any of {key} is 0, and 1 in row 2"),
        (["{key},x,1"], r"row 2: it has 3 cells and the header 8"),
    ],
)
def test_what_is_wrong_is_refused_with_its_row_and_value_before_anything_is_written(source, tmp_path, rows, said):
    key = sorted(path.stem for path in source.rglob("*.dcm"))[0]
    file = written(tmp_path, *(row.format(key=key) for row in rows))
    with pytest.raises(ConfigError, match=said.format(key=key)):
        build.plan(ShardConfig(str(source), str(tmp_path / "out"), corrections=file))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("header", ["id,any", HEADER.replace("correct_any", "correct_epidural"), "", "ID,Label"])
def test_a_file_of_another_kind_is_told_which_columns_it_must_have(tmp_path, header):
    with pytest.raises(ConfigError, match=r"holds no corrections: .*correct_subdural"):
        corrections.read(written(tmp_path, header=header))


def test_a_spreadsheet_may_use_semicolons_a_byte_order_mark_and_lines_in_a_note(tmp_path):
    content = HEADER.replace(",", ";") + '\r\nx;"two\nlines";TRUE;;;;;"0"\r\n;;;;;;;\r\ny;;;1.0;;;;\r\n'
    (tmp_path / "review.csv").write_bytes(b"\xef\xbb\xbf" + content.encode())
    found = corrections.read(str(tmp_path / "review.csv"))
    unknown = UNKNOWN
    assert found.values["x"].tolist() == [1, unknown, unknown, unknown, unknown, 0]
    assert found.values["y"].tolist() == [unknown, 1, unknown, unknown, unknown, unknown]
    assert found.row == {"x": 2, "y": 4}
    assert found.applied(["z", "x"], np.zeros((2, 6), np.int8)).tolist() == [[0] * 6, [1, 0, 0, 0, 0, 0]]
