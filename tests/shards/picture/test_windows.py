from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.picture import windows
from shards.picture.windows import NAMED, Window, WindowError


def standard(hu: float, center: float, width: float) -> float:
    """DICOM PS3.3 C.11.2.1.2.1 as it is written, with y from 0 to 255."""
    if hu <= center - 0.5 - (width - 1) / 2:
        return 0.0
    if hu > center - 0.5 + (width - 1) / 2:
        return 255.0
    return ((hu - (center - 0.5)) / (width - 1) + 0.5) * 255


@given(st.floats(-2000, 4000), st.floats(-1000, 3000), st.floats(1, 5000))
def test_apply_is_the_standards_function_rounded(hu: float, center: float, width: float) -> None:
    value = int(windows.apply(np.array([[hu]]), [Window(center, width)])[0, 0, 0])
    assert abs(value - standard(hu, center, width)) <= 0.5 + 1e-6


def test_borders_of_the_brain_window_are_black_and_white() -> None:
    hu = np.array([[-1000.0, 0.0, 39.5, 79.0, 79.5, 3000.0]])
    assert windows.apply(hu, [NAMED["brain"]])[0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]


def test_a_window_of_one_hu_parts_black_from_white() -> None:
    assert windows.apply(np.array([[39.0, 39.5, 39.6]]), [Window(40, 1)])[0, :, 0].tolist() == [0, 0, 255]


def test_channels_are_different_windows_of_the_same_hu() -> None:
    hu = np.linspace(-200, 300, 400).reshape(20, 20)
    image = windows.apply(hu, [NAMED[name] for name in ("brain", "subdural", "soft_tissue")])
    assert image.shape == (20, 20, 3)
    for channel, name in enumerate(("brain", "subdural", "soft_tissue")):
        np.testing.assert_array_equal(image[..., channel], windows.apply(hu, [NAMED[name]])[..., 0])
    assert not (image[..., 0] == image[..., 1]).all()
    assert not (image[..., 1] == image[..., 2]).all()


def test_names_and_numbers_are_windows() -> None:
    assert windows.parse("bone") == Window(600, 2800)
    assert windows.parse("-600/1500.5") == Window(-600, 1500.5)


@given(st.floats(-1e6, 1e6), st.floats(1, 1e6))
def test_the_text_of_a_window_is_the_window(center: float, width: float) -> None:
    made = Window(center, width)
    assert windows.parse(str(made)) == made


def test_the_text_of_a_window_is_short_where_it_can_be() -> None:
    assert [str(made) for made in NAMED.values()][:3] == ["40/80", "80/200", "40/380"]
    assert str(Window(40.123456, 80.5)) == "40.123456/80.5"
    assert str(Window(-0.0, 1.0)) == "0/1"


@pytest.mark.parametrize("text", ["lung", "40", "40/", "a/b", "40/0", "40/0.5", "nan/80", "40/inf", ""])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(WindowError):
        windows.parse(text)


@pytest.mark.parametrize("texts", [[], ["brain", "bone"], ["brain", "40/80", "bone"], ["brain"] * 4])
def test_a_sample_has_one_window_or_three_different_ones(texts: list[str]) -> None:
    with pytest.raises(WindowError):
        windows.parse_channels(texts)
    assert len(windows.parse_channels(["brain", "bone", "stroke"])) == 3
