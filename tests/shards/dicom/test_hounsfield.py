"""Inverted values are turned round and wrapped ones unwrapped, and right ones stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from shards.dicom import read
from shards.dicom.read import Slice
from shards.dicom.reasons import Reason, Rejected
from tests.support.dicom_files import dataset, dicom_file, head_image, to_bytes

SIDE = 128
OUTSIDE = np.hypot(*(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2)) > SIDE / 2


def hu_of(content: bytes) -> np.ndarray:
    found = read.read_slice(content)
    assert isinstance(found, Slice), found
    return found.hu()


def air() -> np.ndarray:
    """Above the head: no brain, and hardly anything else."""
    return np.rint(np.random.default_rng(1).normal(-1000, 12, (SIDE, SIDE))).astype(np.int16)


def bone() -> np.ndarray:
    """Through the base of the skull: no brain."""
    hu = head_image()
    return np.where((hu > -200) & (hu < 300), np.int16(900), hu)


@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(
    ("signed", "bits", "intercept"),
    [(True, 16, 0), (True, 16, -1024), (True, 16, -8192), (True, 12, 0), (False, 16, -1024), (False, 12, -1024),
     (False, 12, -1000), (False, 16, -32768)],
)  # fmt: skip
def test_monochrome1_is_decided_by_what_makes_sense_of_pixels_that_are_no_padding(
    signed: bool, bits: int, intercept: int, padded: bool, inverted: bool
) -> None:
    lowest, highest = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    hu = head_image().clip(lowest + intercept + 1, highest + intercept)
    stored = hu.astype(np.int64) - intercept
    fill = max(lowest, -2000)
    if padded:
        stored[OUTSIDE] = fill
    if inverted:
        stored, fill = lowest + highest - stored, lowest + highest - fill
    made = dataset(
        stored.astype(np.int16 if signed else np.uint16), BitsStored=bits, HighBit=bits - 1,
        PhotometricInterpretation="MONOCHROME1", RescaleIntercept=str(intercept),
    )  # fmt: skip
    if padded:
        made.add_new("PixelPaddingValue", "SS" if signed else "US", fill)
    np.testing.assert_array_equal(hu_of(to_bytes(made)), np.where(OUTSIDE & padded, -1000, hu))


def test_monochrome1_whose_own_range_turned_round_shows_a_head_is_rejected() -> None:
    hu = head_image()
    found = read.read_slice(dicom_file(hu.max() + hu.min() - hu, PhotometricInterpretation="MONOCHROME1"))
    assert isinstance(found, Rejected)
    assert found.reason is Reason.POLARITY


@pytest.mark.parametrize("image", [air, bone])
@pytest.mark.parametrize("inverted", [True, False])
def test_slices_without_brain_are_decided_as_the_other_ones_of_their_series(image: Any, inverted: bool) -> None:
    hu = np.maximum(image(), -1024)
    stored = hu.astype(np.int64) + 1024
    values = (4095 - stored if inverted else stored).astype(np.uint16)
    changes = {"BitsStored": 12, "HighBit": 11, "PhotometricInterpretation": "MONOCHROME1", "RescaleIntercept": "-1024"}
    np.testing.assert_array_equal(hu_of(dicom_file(values, **changes)), hu)


def test_air_of_every_12_bit_value_comes_back_from_the_12_bit_fault() -> None:
    """CT of 12 bits holds -1024 to 3071 HU: all 4,096 of them, and nothing else, come back."""
    every = np.arange(-1024, 3072).reshape(64, 64)
    wrapped = (every % 4096).astype(np.uint16)
    np.testing.assert_array_equal(hu_of(dicom_file(wrapped, BitsStored=12, HighBit=11)), every)


def test_air_with_noise_has_no_white_specks_after_the_12_bit_fault() -> None:
    hu = np.maximum(head_image(), -1024)
    assert (hu < -1000).mean() > 0.2
    wrapped = (hu.astype(np.int64) % 4096).astype(np.uint16)
    found = hu_of(dicom_file(wrapped, BitsStored=12, HighBit=11, RescaleIntercept="-99"))
    np.testing.assert_array_equal(found, hu)
