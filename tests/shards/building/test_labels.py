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


def test_unknown_subtypes_and_bad_values_are_counted_and_ignored(tmp_path: Path) -> None:
    found = table(tmp_path, [*six("ID_a"), "ID_a_fracture,1", "noseparator,1", "ID_b_any,2", "ID_b_epidural,"])
    assert (found.report.unknown_subtypes, found.report.bad_values, found.report.slices) == (2, 2, 1)


def test_any_is_checked_against_the_subtypes(tmp_path: Path) -> None:
    rows = six("ID_a", "any") + six("ID_b", "epidural") + six("ID_c", "any", "subdural") + six("ID_d")
    found = table(tmp_path, [*rows, "ID_e_any,1", "ID_e_epidural,0"])
    assert found.report.inconsistent_any == 2
    assert found.of(["ID_a", "ID_b"])[:, 0].tolist() == [1, 0]


def test_labels_without_a_file_are_counted(tmp_path: Path) -> None:
    found = table(tmp_path, six("ID_a") + six("ID_b"))
    assert found.without_file(["ID_a", "other"]) == 1


def test_the_label_file_is_found_in_the_source_or_beside_it(tmp_path: Path) -> None:
    images = tmp_path / "data" / "stage_2_train"
    images.mkdir(parents=True)
    assert labels.find(Store.open(images)) is None
    (images.parent / "stage_1_train.csv").write_text("ID,Label\n")
    assert labels.find(Store.open(images)) == str(images.parent / "stage_1_train.csv")
    (images.parent / "stage_2_train.csv").write_text("ID,Label\n")
    assert labels.find(Store.open(images)) == str(images.parent / "stage_2_train.csv")
    assert labels.find(Store.open(images.parent)) == str(images.parent / "stage_2_train.csv")


@pytest.mark.parametrize("content", ["", "ID,Label\n", "a,b\n1,2\n", "ID,Label\nx_any,1,3\n"])
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
