from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.dicom import hounsfield
from shards.dicom.read import Slice, read_slice
from shards.picture import encode, geometry
from shards.picture.windows import apply, parse
from tests.support.dicom_files import dicom_file, hu_image

WINDOWS = ("brain", "bone", "stroke_narrow")


def config(size: int = 32, windows: tuple[str, ...] = WINDOWS) -> encode.RenderConfig:
    return encode.RenderConfig(size, windows, "png", 95, False)


def read(content: bytes) -> Slice:
    found = read_slice(content)
    assert isinstance(found, Slice), found
    return found


def by_definition(found: Slice, wanted: encode.RenderConfig) -> np.ndarray:
    """Resampled in HU, then windowed, in floating point."""
    hu = geometry.to_hu(*geometry.resample(found.stored, wanted.size), found.slope, found.intercept)
    return apply(hu, [parse(name) for name in wanted.windows])


@pytest.mark.parametrize(("slope", "intercept"), [("1", "-1024"), ("-1", "-960"), ("0.5", "0.25")])
@pytest.mark.parametrize("side", [48, 64, 100])
@pytest.mark.parametrize("windows", [WINDOWS, ("subdural",)])
def test_the_window_table_gives_what_the_windows_give(
    slope: str, intercept: str, side: int, windows: tuple[str, ...]
) -> None:
    found = read(dicom_file(hu_image(side), RescaleSlope=slope, RescaleIntercept=intercept))
    narrow, wanted = geometry.narrow(found.stored, found.bounds), config(windows=windows)
    assert narrow is not None
    image = encode.channels(encode.render(found, narrow, wanted)[0])
    np.testing.assert_array_equal(image, by_definition(found, wanted))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([np.int16, np.uint16]),
    st.sampled_from([1.0, -1.0, 2.0, 0.5, 1.7]),
    st.sampled_from([0.0, -1024.0, -8192.0, 900.0, 0.25]),
    st.integers(0, 16),
    st.integers(0, 2**32 - 1),
)
def test_sixteen_bits_give_what_floating_point_gives_for_any_range_of_values(
    kind: type[np.integer], slope: float, intercept: float, bits: int, seed: int
) -> None:
    """Up to the whole range of 16 bits, in which nothing may wrap."""
    draw = np.random.default_rng(seed)
    bounds = np.iinfo(kind)
    low = int(draw.integers(bounds.min, bounds.max - (1 << bits) + 2))
    stored = draw.integers(low, low + (1 << bits), (16, 16)).astype(kind)
    given_hu = stored * np.float64(slope) + np.float64(intercept)
    whole = (int(stored.min()), int(stored.max()))
    values, new_slope, new_intercept, new_bounds = hounsfield.in_hounsfield(stored, slope, intercept, whole)
    np.testing.assert_array_equal(values * np.float64(new_slope) + np.float64(new_intercept), given_hu)
    assert (int(values.min()), int(values.max())) == new_bounds
    found = Slice(values, new_slope, new_intercept, new_bounds, None, None, None, None, None, None, None)
    narrow, wanted = geometry.narrow(found.stored, found.bounds), config(8)
    fits = geometry.NARROW[0] <= values.min() and values.max() <= geometry.NARROW[1]
    assert (narrow is not None) == fits
    image = encode.channels(encode.render(found, narrow, wanted)[0])
    np.testing.assert_array_equal(image, by_definition(found, wanted))
    brain = np.count_nonzero((given_hu >= 0) & (given_hu <= 80)) / stored.size
    assert geometry.brain_fraction(values, new_slope, new_intercept) == brain


def test_the_digest_is_of_hu_also_beyond_16_bits_and_beside_padding() -> None:
    def digest(**elements: object) -> bytes:
        found = read(dicom_file(**elements))
        return encode.pixel_digest(found, geometry.narrow(found.stored, found.bounds))

    image = hu_image()
    image[3, 4] = 20_000
    shifted = {"stored": (image.astype(np.int32) + 8192).astype(np.uint16), "RescaleIntercept": "-8192"}
    assert digest(stored=image) == digest(**shifted)
    image = hu_image()
    image[:3] = -1000
    padded = image.copy()
    padded[:3] = -32768
    assert digest(stored=padded, PixelPaddingValue=-32768) == digest(stored=image)
    padded[0, 0] = -999
    assert digest(stored=padded, PixelPaddingValue=-32768) != digest(stored=image)


def test_rows_and_columns_belong_to_the_digest() -> None:
    image = hu_image()
    wide, tall = (read(dicom_file(image.reshape(shape))) for shape in ((16, 64), (64, 16)))
    assert len({encode.pixel_digest(one, geometry.narrow(one.stored, one.bounds)) for one in (wide, tall)}) == 2
