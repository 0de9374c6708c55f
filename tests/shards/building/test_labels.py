from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.errors import ConfigError
from hemodist.storage.store import Store
from shards.building import labels

ROW_ORDER = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any")


def table(tmp_path: Path, rows: list[str]) -> labels.LabelTable:
    path = tmp_path / "stage_2_train.csv"
    path.write_text("\n".join(["ID,Label", *rows]) + "\n")
    return labels.read(str(path))


def six(name: str, *positive: str) -> list[str]:
    return [f"{name}_{label},{int(label in positive)}" for label in ROW_ORDER]


def test_labels_come_in_the_manifests_order(tmp_path: Path) -> None:
    found = table(tmp_path, six("ID_a", "any", "epidural") + six("ID_b"))
    assert found.of(["ID_b", "ID_a"]).tolist() == [[0] * 6, [1, 1, 0, 0, 0, 0]]
    assert found.digest == hashlib.sha256((tmp_path / "stage_2_train.csv").read_bytes()).hexdigest()


def test_a_slice_without_labels_is_unknown_and_never_zero(tmp_path: Path) -> None:
    found = table(tmp_path, [*six("ID_a"), "ID_c_any,1"])
    assert found.of(["ID_missing"]).tolist() == [[UNKNOWN] * 6]
    assert found.of(["ID_c"]).tolist() == [[1] + [UNKNOWN] * 5]
    assert labels.no_labels().of(["x", "y"]).tolist() == [[UNKNOWN] * 6] * 2


def test_duplicate_rows_are_counted_and_conflicts_become_unknown(tmp_path: Path) -> None:
    rows = six("ID_a", "any", "subdural") + six("ID_b")
    found = table(tmp_path, [*rows, "ID_a_any,1", "ID_a_subdural,0", "ID_b_epidural,0"])
    assert found.of(["ID_a"])[0].tolist() == [1, 0, 0, 0, 0, UNKNOWN]
    report = found.report
    assert (report.rows, report.slices, report.duplicate_rows, report.conflicts) == (15, 2, 3, 1)


def test_unknown_subtypes_and_empty_values_are_counted_and_unknown(tmp_path: Path) -> None:
    found = table(tmp_path, [*six("ID_a"), "ID_a_fracture,1", "noseparator,1", "ID_b_any,1", "ID_b_epidural, "])
    assert (found.report.unknown_subtypes, found.report.empty_values, found.report.slices) == (2, 1, 2)
    assert found.of(["ID_b"]).tolist() == [[1] + [UNKNOWN] * 5]


@pytest.mark.parametrize(
    ("yes", "no"),
    [("1.0", "0.0"), ("True", "False"), (" true ", "FALSE"), ('"1"', '"0"'), ("1.", "0.00"), ("1e0", "0e0"),
     ("1.000000000000000000e+00", "0.000000000000000000e+00"), ("'1'", "'0'"), ("1", "-0.0")],
)  # fmt: skip
def test_a_value_is_read_as_what_it_is(tmp_path: Path, yes: str, no: str) -> None:
    rows = six("ID_a", "any", "subdural") + six("ID_b")
    found = table(tmp_path, [f"{row[:-1]}{yes if row[-1] == '1' else no}" for row in rows])
    assert found.of(["ID_a", "ID_b"]).tolist() == [[1, 0, 0, 0, 0, 1], [0] * 6]


@pytest.mark.parametrize("value", ["2", "0.5", "yes", "nan", "inf", "-1", "NULL", "1 0", "0x1", "\u4e00"])
def test_any_other_value_is_refused_with_its_row_and_the_remedy(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"row 8 .*{value}.* of ID_b_any .*write 1 or true") as raised:
        table(tmp_path, [*six("ID_a"), f"ID_b_any,{value}", *six("ID_c")])
    assert "\n" not in str(raised.value)


def test_the_row_of_a_bad_value_is_right_beyond_the_first_block(tmp_path: Path) -> None:
    rows = [row for number in range(20_000) for row in six(f"ID_{number:09x}")]
    rows[100_000] = "ID_x_any,maybe"
    with pytest.raises(ConfigError, match=r"row 100002 .*'maybe' of ID_x_any"):
        table(tmp_path, rows)


@pytest.mark.parametrize("form", ["{0} ", " {0}", "\t{0}", "\u00a0{0}", '" {0}"'])
def test_spaces_around_ids_are_no_part_of_them(tmp_path: Path, form: str) -> None:
    rows = [f"{form.format(row.rpartition(',')[0])},{row[-1]}" for row in six("ID_a", "any")]
    assert table(tmp_path, rows).of(["ID_a"]).tolist() == [[1, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    "header", ["ID,Label", " ID , Label ", "id,label", '"ID","Label"', "ID,Label,Site", "\ufeffID,Label"]
)
def test_the_header_may_be_spelled_otherwise(tmp_path: Path, header: str) -> None:
    path = tmp_path / "labels.csv"
    more = ",x" if "Site" in header else ""
    path.write_bytes("\r\n".join([header, *(row + more for row in six("ID_a", "any"))]).encode())
    assert labels.read(str(path)).of(["ID_a"]).tolist() == [[1, 0, 0, 0, 0, 0]]


def test_names_of_several_files_get_no_label(tmp_path: Path) -> None:
    found = table(tmp_path, six("1-01", "any") + six("2-07") + six("3-01"))
    left, ambiguous = found.matched(["1-01", "2-07", "1-01", "4-01"], "labels.csv")
    assert (left.ids.to_pylist(), ambiguous) == (["2-07"], 1)
    assert left.of(["1-01", "2-07"]).tolist() == [[UNKNOWN] * 6, [0] * 6]


@pytest.mark.parametrize(
    ("stems", "says"),
    [(["ID_x", "ID_y"], "names ID_a and so on, and the files ID_x"), (["ID_a", "ID_a"], "are of several files .ID_a")],
)
def test_a_label_file_that_labels_no_file_is_refused(tmp_path: Path, stems: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=f"labels.csv labels none of the 2 files: .*{says}.*--labels no"):
        table(tmp_path, six("ID_a") + six("ID_b")).matched(stems, "labels.csv")


def test_a_label_file_whose_rows_all_contradict_each_other_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="labels none"):
        table(tmp_path, ["ID_a_any,1", "ID_a_any,0"]).matched(["ID_a"], "labels.csv")


@pytest.mark.parametrize("rows", [["ID_a_fracture,1"], ["ID_a_any,", "ID_b_any,"], ["ID_a,1"]])
def test_a_label_file_without_any_label_is_refused(tmp_path: Path, rows: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"labels nothing.*a row is like ID_0123abcd9_epidural,0"):
        table(tmp_path, rows)


def test_any_is_checked_against_the_subtypes(tmp_path: Path) -> None:
    rows = six("ID_a", "any") + six("ID_b", "epidural") + six("ID_c", "any", "subdural") + six("ID_d")
    found = table(tmp_path, [*rows, "ID_e_any,1", "ID_e_epidural,0"])
    assert found.report.inconsistent_any == 2
    assert found.of(["ID_a", "ID_b"])[:, 0].tolist() == [1, 0]


def test_the_label_file_is_found_in_the_source_or_beside_it(tmp_path: Path) -> None:
    images = tmp_path / "data" / "stage_2_train"
    images.mkdir(parents=True)
    assert labels.find(Store.open(images)) is None
    (images.parent / "stage_1_train.csv").write_text("ID,Label\n")
    assert labels.find(Store.open(images)) == str(images.parent / "stage_1_train.csv")
    (images.parent / "stage_2_train.csv").write_text("ID,Label\n")
    assert labels.find(Store.open(images)) == str(images.parent / "stage_2_train.csv")
    assert labels.find(Store.open(images.parent)) == str(images.parent / "stage_2_train.csv")


def test_the_label_file_is_found_as_it_was_downloaded(tmp_path: Path) -> None:
    (tmp_path / "stage_1_train.csv").write_text("ID,Label\n")
    (tmp_path / "stage_2_train.csv.zip").write_bytes(b"")
    assert labels.find(Store.open(tmp_path)) == str(tmp_path / "stage_2_train.csv.zip")


@pytest.mark.parametrize(
    "content",
    ["", "ID,Label\n", "a,b\n1,2\n", "ID,Label\nx_any,1,3\n", "ID;Label\nx_any;1\n", "ID,Label,id\nx_any,1,2\n"],
)
def test_what_is_no_label_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    with pytest.raises(ConfigError):
        labels.read(str(path))


def test_a_missing_label_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        labels.read(str(tmp_path / "none.csv"))


def test_a_file_larger_than_one_block_is_read_whole(tmp_path: Path) -> None:
    names = [f"ID_{number:09x}" for number in range(20_000)]
    found = table(tmp_path, [row for number, name in enumerate(names) for row in six(name, *LABELS[: number % 3])])
    values = found.of(names)
    assert found.report.rows == 120_000
    np.testing.assert_array_equal(values[:, 0], np.minimum(np.arange(20_000) % 3, 1))
    np.testing.assert_array_equal(values[:, 1], np.arange(20_000) % 3 == 2)


def test_a_labels_name_is_read_in_any_case(tmp_path: Path) -> None:
    found = table(tmp_path, ["ID_a_Any,1", "ID_a_EPIDURAL,0", "ID_b_any,0"])
    assert found.of(["ID_a", "ID_b"])[:, :2].tolist() == [[1, 0], [0, UNKNOWN]]
    assert found.report.unknown_subtypes == 0
