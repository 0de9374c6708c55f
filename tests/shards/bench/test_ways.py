from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hemodist.errors import ConfigError
from shards.bench import ways
from shards.dicom.read import Slice, read_slice
from shards.picture import encode, geometry
from tests.support.dicom_files import dicom_file, hu_image


@pytest.mark.parametrize(
    ("slope", "intercept", "inverted"), [("1", "-1024", False), ("2", "0", False), ("1", "0", True), ("2", "24", True)]
)
def test_the_limit_makes_the_very_image_of_the_sharder(
    slope: str, intercept: str, inverted: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.dcm"
    stored = hu_image(512)
    shown = {"PhotometricInterpretation": "MONOCHROME1"} if inverted else {}
    path.write_bytes(
        dicom_file(~stored if inverted else stored, RescaleSlope=slope, RescaleIntercept=intercept, **shown)
    )
    found = read_slice(path.read_bytes())
    assert isinstance(found, Slice)
    image, _ = encode.render(found, geometry.narrow(found.stored, found.bounds), ways._CONFIG)
    made = ways.limit_image(path.read_bytes(), ways._format(path))
    assert made == ways.kernels_image(path.read_bytes(), ways._format(path)) == encode.encode(image, ways._CONFIG)
    assert np.asarray(Image.open(io.BytesIO(made))).shape == (256, 256, 3)


def test_a_bench_times_every_way_and_relates_the_medians(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.dcm").write_bytes(dicom_file(hu_image(512, seed=number)))
    rates = ways.measure(tmp_path, rounds=1, processes=(1,), repeats=2)
    assert [rate.way for rate in rates] == ["hemodist", "limit", "kernels", "notebook", "webdataset"]
    assert all(len(rate.rounds) == 1 and rate.median > 0 for rate in rates)
    ours, *others = (rate.median for rate in rates)
    assert list(ways.ratios(rates).values()) == [ours / other for other in others]


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    peers = [ways.WayRate(way, 1, (10.0, 20.0, 100.0)) for way in ("limit", "kernels", "notebook", "webdataset")]
    assert set(ways.ratios([ways.WayRate("hemodist", 1, (20.0, 60.0, 100.0)), *peers]).values()) == {2.0}


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \.dcm file"):
        ways.measure(tmp_path, 1)
    (tmp_path / "a.dcm").write_bytes(dicom_file())
    with pytest.raises(ConfigError, match="512 x 512"):
        ways.measure(tmp_path, 1)
