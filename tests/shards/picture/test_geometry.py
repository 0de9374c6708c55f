from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.dicom import hounsfield
from shards.picture import geometry
from shards.picture.geometry import Box


def exact_means(square: np.ndarray, size: int) -> np.ndarray:
    """Area resampling by its definition: every source pixel counted with the share of it that is covered."""
    side = len(square)
    weights = np.zeros((size, side))
    for target in range(size):
        low, high = target * side / size, (target + 1) * side / size
        for pixel in range(side):
            weights[target, pixel] = max(0.0, min(high, pixel + 1) - max(low, pixel))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ square @ weights.T


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_resampling_is_the_mean_over_the_covered_area_for_any_two_sizes(side: int, size: int, seed: int) -> None:
    square = np.random.default_rng(seed).integers(-2000, 4000, (side, side)).astype(np.int32)
    sums, divisor = geometry.resample(square, size)
    np.testing.assert_allclose(sums / divisor, exact_means(square, size), atol=1e-8)


@pytest.mark.parametrize("size", [256, 512])
def test_the_short_way_for_whole_factors_gives_the_bits_of_the_general_one(size: int) -> None:
    square = np.random.default_rng(0).integers(-2000, 4000, (512, 512)).astype(np.int32)
    sums, divisor = geometry.resample(square, size)
    general = geometry._area(geometry._area(square, size).T, size).T
    np.testing.assert_array_equal(sums / np.float64(divisor), general / np.float64(512 * 512))


def test_resampling_stored_values_is_resampling_hu() -> None:
    stored = np.random.default_rng(1).integers(0, 4096, (48, 48)).astype(np.int32)
    hu = geometry.to_hu(*geometry.resample(stored, 20), 0.7, -1024.3)
    np.testing.assert_allclose(hu, exact_means(stored * 0.7 - 1024.3, 20), atol=1e-9)


def test_the_total_is_kept_whatever_the_size() -> None:
    square = np.random.default_rng(2).integers(-1000, 3000, (37, 37)).astype(np.int32)
    for size in (5, 36, 37, 38, 74, 101):
        sums, divisor = geometry.resample(square, size)
        assert sums.sum() * 37 * 37 == square.sum(dtype=np.int64) * divisor * size * size


def test_a_rectangle_becomes_a_square_without_distortion_between_air() -> None:
    stored = np.arange(6 * 10, dtype=np.int32).reshape(6, 10)
    box = geometry.full_box(6, 10)
    square = geometry.cut(stored, box, air=-7)
    assert box == Box(-2, 0, 10)
    np.testing.assert_array_equal(square[2:8], stored)
    assert (square[:2] == -7).all()
    assert (square[8:] == -7).all()


def test_a_box_beyond_the_image_is_filled_with_air() -> None:
    stored = np.ones((4, 4), np.int32)
    square = geometry.cut(stored, Box(2, -3, 6), air=0)
    assert square.sum() == 2 * 3
    assert (square[:2, 3:] == 1).all()
    assert geometry.cut(stored, Box(10, 10, 3), air=5).tolist() == [[5] * 3] * 3


def test_air_is_the_stored_value_nearest_to_minus_1000_hu() -> None:
    assert hounsfield.air_value(1, 0) == -1000
    assert hounsfield.air_value(0.7, -1024.3) * 0.7 - 1024.3 == pytest.approx(-1000, abs=0.35)


def test_brain_fraction_counts_0_to_80_hu_with_both_ends() -> None:
    hu = np.array([[-1, 0, 40], [80, 81, 1000]], np.int32)
    assert geometry.brain_fraction(hu, 1.0, 0.0) == 3 / 6
    assert geometry.brain_fraction(hu + 1024, 1.0, -1024.0) == 3 / 6
    assert geometry.brain_fraction(-hu, -1.0, 0.0) == 3 / 6
    assert geometry.brain_fraction(2 * hu, 0.5, 0.0) == 3 / 6


def head(table: bool) -> np.ndarray:
    down, across = np.mgrid[:512, :512]
    stored = np.full((512, 512), -1000, np.int32)
    stored[((down - 200) / 120) ** 2 + ((across - 300) / 90) ** 2 < 1] = 40
    if table:
        stored[480:486, 40:480] = 300
    return stored


@pytest.mark.parametrize("table", [False, True])
def test_the_head_is_found_beside_a_table_and_fills_its_box(table: bool) -> None:
    box = geometry.head_box(head(table), 1.0, 0.0)
    square = geometry.cut(head(False), box, -1000)
    assert (square == 40).sum() == (head(False) == 40).sum()
    assert 240 <= box.side <= 290


def test_without_a_head_the_whole_image_is_kept() -> None:
    assert geometry.head_box(np.full((100, 120), -1000, np.int32), 1.0, 0.0) == geometry.full_box(100, 120)


def test_sums_beyond_32_bits_are_exact() -> None:
    square = np.full((512, 512), 10**9, np.int32)
    sums, divisor = geometry.resample(square, 256)
    assert divisor == 4
    assert (sums == 4 * 10**9).all()
