"""What is odd about a series is counted and told, in summary, manifest and `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hemodist.dataset.index import INDEX_SCHEMA
from hemodist.storage.store import Store
from shards.building import build, series
from shards.inspect.verify import verify
from tests.support.builds import make
from tests.support.dicom_files import dicom_file, hu_image

TWO = [2.5] * 8 + [5.0] * 6
"""Steps of a head that is scanned in thin slices below and thick ones above."""


def index_of(positions: list[float | None], **columns: Any) -> pa.Table:
    """An index of one series; `columns` replaces columns, or gives all rows one value."""
    count = len(positions)
    wanted = {"position": positions, "series": "s", "brain_fraction": 0.3, "duplicate": False}
    wanted |= {"rows": 512, "columns": 512, "spacing": 0.5, "inverted": None} | columns
    fields = [field for field in INDEX_SCHEMA if field.name in (*wanted, "study", "patient")]
    values = [wanted.get(field.name) for field in fields]
    arrays = [value if isinstance(value, list) else [value] * count for value in values]
    return pa.table(
        [pa.array(array, field.type) for array, field in zip(arrays, fields, strict=True)], pa.schema(fields)
    )


def faults(positions: list[float | None], **columns: Any) -> dict[str, str]:
    (one,) = series.all_series(index_of(positions, **columns))
    return one.faults


def placed(steps: list[float]) -> list[float | None]:
    return [float(place) for place in np.cumsum([-60.0, *steps])]


@pytest.mark.parametrize(("positions", "gaps"), [
    (placed([5.0] * 11), 0),
    (placed([5.0] * 4 + [10.0] + [5.0] * 6), 1),
    (placed([5.0] * 4 + [10.0, 10.0] + [5.0] * 6), 2),
    (placed([10.0] + [5.0] * 6), 1),
    (placed([5.0] * 6 + [30.0]), 1),
    (placed([5.0, 10.0]), 1),
    (placed([4.9, 5.1] * 6), 0),
    (placed(TWO), 0),
    (placed([*TWO[:3], 5.0, *TWO[4:]]), 1),
    (placed([]), 0),
    ([None] * 5, 0),
    ([*placed([5.0] * 4), None], 0),
    (placed([5.0] * 4)[::-1], 0),
])  # fmt: skip
def test_a_gap_is_a_step_that_is_longer_than_those_around_it(positions: list[float | None], gaps: int) -> None:
    found = faults(positions).get("gaps", "0")
    assert found.split()[0] == str(gaps)


def test_a_selection_leaves_no_gaps_that_mean_anything() -> None:
    (one,) = series.all_series(index_of(placed([5.0, 5.0, 40.0, 5.0])), whole=False)
    assert one.faults == {}


@pytest.mark.parametrize(("columns", "doubled"), [
    ({}, "2 of 6 slices where another one is"),
    ({"duplicate": [False, True, False, False, True, False]}, None),  # second copies are not used
    ({"series": None, "study": "t"}, None),  # two series of a study may well show one place
])  # fmt: skip
def test_two_slices_at_one_place_are_told(columns: dict[str, Any], doubled: str | None) -> None:
    assert faults([0.0, 0.0, 5.0, 10.0, 10.01, 15.0], **columns).get("doubled_positions") == doubled


@pytest.mark.parametrize(("columns", "text"), [
    ({"rows": [512, 512, 256, 256]}, "2 sizes of 4 images"),
    ({"columns": [512, 512, 512, 768]}, "2 sizes of 4 images"),
    ({"spacing": [0.5, 0.5, 0.5, 0.45]}, "pixels of 0.45 to 0.5 mm"),
    ({"spacing": [0.5, 0.5, None, 0.501]}, None),
    ({"rows": None, "columns": None, "spacing": None}, None),  # of a data set that is older than these columns
])  # fmt: skip
def test_images_of_several_sizes_are_told(columns: dict[str, Any], text: str | None) -> None:
    assert faults(placed([5.0] * 3), **columns).get("mixed_sizes") == text


@pytest.mark.parametrize(("inverted", "text"), [
    ([True, True, False, None], "2 of 3 MONOCHROME1 slices had inverted values, the others not"),
    ([True, True, True, None], None),
    ([False, False, False, False], None),
    (None, None),  # MONOCHROME2, or of a data set that is older than this column
])  # fmt: skip
def test_slices_that_disagree_whether_they_are_inverted_are_told(inverted: Any, text: str | None) -> None:
    assert faults(placed([5.0] * 3), inverted=inverted).get("mixed_inversion") == text


@pytest.mark.parametrize(("brain", "given", "named"), [
    ([0.0, 0.01, 0.019], {}, "s"),
    ([0.0, 0.01, 0.021], {}, None),  # the first and the last slices of every head show little brain
    ([0.4, 0.5, 0.7], {}, "s"),  # air of 24 HU, where an intercept of -1024 was left out
    ([0.4, 0.5, 0.6], {}, None),
    ([0.0, 0.0, 0.0], {"series": None, "study": "t"}, "t"),
    ([0.0, 0.0, 0.0], {"series": None}, ""),
])  # fmt: skip
def test_a_series_is_without_brain_where_no_slice_has_any(brain: Any, given: Any, named: str | None) -> None:
    (one,) = series.all_series(index_of(placed([5.0] * 2), brain_fraction=brain, **given))
    assert ("no_brain" in one.faults) == (named is not None)
    assert named is None or one.name == named


def test_slices_of_a_series_come_by_position() -> None:
    index = index_of([3.0, None, 1.0, 2.0, 9.0], series=["a", "a", "a", "a", "b"])
    assert [(one.name, one.rows.tolist()) for one in series.all_series(index)] == [("a", [2, 3, 0, 1]), ("b", [4])]


@pytest.mark.parametrize("off", ["-1024", "-500", "400"])
def test_a_series_whose_hounsfield_units_are_wrong_is_told_by_everything(tmp_path: Path, off: str) -> None:
    source = tmp_path / "data"
    source.mkdir()
    for number in range(24):
        wrong = {"RescaleIntercept": off} if number >= 12 else {}
        content = dicom_file(
            hu_image(seed=number), SOPInstanceUID=f"2.25.1{number}", SeriesInstanceUID=f"2.25.{2 + number // 12}",
            ImagePositionPatient=["0", "0", str(5 * number)], **wrong,
        )  # fmt: skip
        (source / f"{number}.dcm").write_bytes(content)
    manifest = make(source, tmp_path / "out")
    assert manifest.samples == 24
    assert manifest.series is not None
    (name,) = manifest.series["no_brain"]["first"]
    assert manifest.series == {"series": 2, "no_brain": {"series": 1, "slices": 12, "first": [name]}}
    assert build.summary(manifest)["series without brain"] == f"1 of 2 (12 slices): {name[:12]}"
    report = verify(Store.open(tmp_path / "out"), quick=True)
    assert (report.problems, report.remarks) == ([], [f"series {name}: no brain in any of 12 slices"])


def test_a_series_that_is_inverted_in_part_is_told_by_everything(tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.mkdir()
    for number in range(12):
        stored = (np.clip(hu_image(seed=number), -1024, 3071).astype(np.int64) + 1024).astype(np.uint16)
        content = dicom_file(
            4095 - stored if number < 4 else stored, SOPInstanceUID=f"2.25.1{number}", SeriesInstanceUID="2.25.2",
            ImagePositionPatient=["0", "0", str(5 * number)], RescaleIntercept="-1024", BitsStored=12, HighBit=11,
            PhotometricInterpretation="MONOCHROME1",
        )  # fmt: skip
        (source / f"{number}.dcm").write_bytes(content)
    manifest = make(source, tmp_path / "out")
    assert manifest.series is not None
    (name,) = manifest.series["mixed_inversion"]["first"]
    assert build.summary(manifest)["series inverted in part"] == f"1 of 1 (12 slices): {name[:12]}"
    report = verify(Store.open(tmp_path / "out"), quick=True)
    told = f"series {name}: 4 of 12 MONOCHROME1 slices had inverted values, the others not"
    assert (report.problems, report.remarks) == ([], [told])
