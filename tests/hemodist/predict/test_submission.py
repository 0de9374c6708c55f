"""Each probability leads to its file, and no name is changed on the way."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

from hemodist.dataset.labels import LABELS
from hemodist.predict import submission
from hemodist.predict.new_slices import PredictedSlices, name_of_key
from shards.packing.source_files import File, key_of, key_style, name_of

UID = "1.2.840.113619.2.55.3.604688119.868.1234567890.123.45.67.8.9.10"


def predicted(paths, probability=None) -> PredictedSlices:
    style = key_style([File(path, 1) for path in paths])
    keys, names = [key_of(path, style) for path in paths], [name_of(path, style) for path in paths]
    given = np.linspace(0.1, 0.9, 6 * len(paths)).reshape(-1, 6) if probability is None else probability
    return submission.merged(
        [PredictedSlices(keys, names, list(paths), ["study"] * len(paths), ["series"] * len(paths), given, [])]
    )


def written(tmp_path, found: PredictedSlices) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    submission.write(str(tmp_path / "s.csv"), found, np.full(6, 0.25), "page", {})
    tables = []
    for name in ("s.csv", "s.files.csv"):
        with (tmp_path / name).open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    return tables[0], tables[1]


@pytest.mark.parametrize(
    "paths",
    [
        ["left ward/1-01.dcm", "right ward/1-01.dcm", "1.2.3/IM.1", "1.2.3/IM.2", "1.2.4/IM.1"],
        [f"{UID}.dcm", f"{UID}1.dcm"],
        ["ä/ö.dcm", 'a,b/"c".dcm', "x"],
        [f"{'long' * 30}/1.dcm", f"{'long' * 30}/2.dcm", "b/1.dcm"],
    ],
    ids=["same names", "UIDs", "signs", "long"],
)
def test_each_row_of_the_submission_leads_to_the_path_of_its_file(tmp_path, paths):
    found = predicted(paths)
    rows, files = written(tmp_path, found)
    by_id = {row["ID"]: row for row in files}
    assert sorted(row["path"] for row in files) == sorted(paths)
    assert {row["ID"].rpartition("_")[0] for row in rows} == by_id.keys()
    assert len(rows) == 6 * len(paths)
    for row in rows:
        name, _, label = row["ID"].rpartition("_")
        assert by_id[name][label] == row["Label"]
        assert by_id[name]["path"].removesuffix(".dcm").endswith(name.removesuffix(".dcm"))
    given = dict(zip(found.paths, found.probability, strict=True))
    for row in files:
        assert [float(row[label]) for label in LABELS] == pytest.approx(given[row["path"]], abs=1e-8)
        assert (row["study"], row["series"]) == ("study", "series")


def test_a_uid_of_64_characters_with_many_dots_is_its_own_id(tmp_path):
    uid = ".".join("1" * 32) + "2"
    assert len(uid) == 64
    assert len(key_of(f"{uid}.dcm", "stem")) < 64 + 27  # the key, made safe for a tar, had to be cut
    _, files = written(tmp_path, predicted([f"{uid}.dcm"]))
    assert files[0]["ID"] == uid


@pytest.mark.parametrize("sign", list("=+-@"))
def test_no_cell_begins_like_a_formula_and_the_path_still_leads_to_the_file(tmp_path, sign):
    rows, files = written(tmp_path, predicted([f"{sign}cmd.dcm", "b.dcm"]))
    cells = [cell for row in (*rows, *files) for cell in row.values()]
    assert not any(cell[:1] in ("=", "+", "-", "@") for cell in cells)
    assert f"./{sign}cmd.dcm" in {row["path"] for row in files}


def test_a_label_without_a_probability_is_an_empty_cell_and_the_training_share_in_rsnas_format(tmp_path):
    probability = np.array([[0.5, math.nan, 0.1, 0.1, 0.1, 0.1]])
    rows, files = written(tmp_path, predicted(["a.dcm"], probability))
    assert {row["ID"]: row["Label"] for row in rows}["a_epidural"] == "0.25"
    assert files[0]["epidural"] == ""


def test_the_name_of_a_data_sets_sample_is_read_from_its_key():
    for path in ("left ward/1.2.3.dcm", "ä/=x.dcm", "ID_1.dcm", "a%20b.dcm"):
        assert name_of_key(key_of(path, "path")) == path.removesuffix(".dcm")
    cut = key_of("x" * 200, "path")
    assert name_of_key(cut) == cut
