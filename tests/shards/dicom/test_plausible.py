"""Values that cannot be HU have a reason of their own; odd but real ones stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.dicom import read
from shards.dicom.read import Slice
from shards.dicom.reasons import Reason, Rejected
from tests.support.dicom_files import dicom_file, head_image


def outcome(stored: np.ndarray, **changes: Any) -> Reason | None:
    found = read.read_slice(dicom_file(np.ascontiguousarray(stored), **changes))
    return found.reason if isinstance(found, Rejected) else None


HU = head_image(256).astype(np.int64)
ROW, COLUMN = np.mgrid[:256, :256]
CORNERS = np.hypot(ROW - 127.5, COLUMN - 127.5) > 128
NOISE = np.random.default_rng(5)


def running_sum(*, bits: int, axis: int = 1) -> np.ndarray:
    """What a decoder leaves that adds up prediction and value twice, in some of the columns or rows."""
    stored = HU + 1024
    part = (slice(None), slice(20, 130)) if axis == 1 else (slice(20, 130), slice(None))
    stored[part] = np.cumsum(stored[part], axis=axis)
    return stored % (1 << bits)


TWELVE = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": "-1024"}
OUTSIDE_AT_2000 = np.where(CORNERS, -2000, HU + 1024)

WRONG: dict[str, tuple[np.ndarray, dict[str, Any], Reason]] = {
    "two's complement": ((HU % 65536).astype(np.uint16), {}, Reason.SIGN_LOST),
    "two's complement, fill only": (
        (OUTSIDE_AT_2000 % 65536).astype(np.uint16), {"RescaleIntercept": "-1024"}, Reason.SIGN_LOST,
    ),
    "two's complement, half units": ((2 * HU % 65536).astype(np.uint16), {"RescaleSlope": "0.5"}, Reason.SIGN_LOST),
    "running sum of 16 bits": (running_sum(bits=16).astype(np.uint16), {"RescaleIntercept": "-1024"}, Reason.SCRAMBLED),
    "running sum of 16 bits, signed": (
        running_sum(bits=16).astype(np.uint16).view(np.int16), {"RescaleIntercept": "-1024"}, Reason.SCRAMBLED,
    ),
    "running sum of 12 bits": (running_sum(bits=12).astype(np.uint16), TWELVE, Reason.SCRAMBLED),
    "running sum along columns": (running_sum(bits=12, axis=0).astype(np.uint16), TWELVE, Reason.SCRAMBLED),
    "bytes swapped": (HU.astype(np.int16).byteswap(), {}, Reason.SCRAMBLED),
    "noise of 12 bits": (NOISE.integers(0, 4096, HU.shape).astype(np.uint16), TWELVE, Reason.SCRAMBLED),
    "8 bits of 32 HU": (
        ((HU + 1024) // 32).clip(0, 255).astype(np.uint8),
        {"RescaleSlope": "32", "RescaleIntercept": "-1024"},
        Reason.COARSE_GREYS,
    ),
    "16 bits in steps of 16": ((HU // 16 * 16).astype(np.int16), {}, Reason.COARSE_GREYS),
    "steps of 5 at a slope of 4": (
        (HU // 20 * 5).astype(np.int16), {"RescaleSlope": "4", "RescaleIntercept": "3"}, Reason.COARSE_GREYS,
    ),
    "greys of a window": (np.clip(HU * 3 + 8, 0, 255).astype(np.uint8), {}, Reason.NO_AIR),
    "clipped at 0": (np.maximum(HU, 0).astype(np.uint16), {}, Reason.NO_AIR),
    "no intercept": ((HU + 1200).astype(np.uint16), {}, Reason.NO_AIR),
}  # fmt: skip


@pytest.mark.parametrize(("stored", "changes", "reason"), WRONG.values(), ids=WRONG.keys())
def test_values_that_cannot_be_hu_are_rejected(stored: np.ndarray, changes: dict[str, Any], reason: Reason) -> None:
    assert outcome(stored, **changes) == reason


def metal() -> np.ndarray:
    """Clips and crowns in an extended scale, with streaks."""
    hu = HU.copy()
    hu[(ROW % 64 < 8) & (COLUMN % 64 < 8)] = 30000
    hu[ROW % 64 == 9] -= 900
    return hu


RIGHT: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "a head": (HU, {}),
    "metal of an extended scale": (metal(), {}),
    "metal, clipped at 12 bits": ((metal().clip(-1024, 3071) + 1024), {"RescaleIntercept": "-1024"}),
    "a fill that no element declares": (np.where(CORNERS, -3024, HU), {}),
    "another fill": (np.where(CORNERS, -32768, HU), {}),
    "a fill of 12 bits": (np.where(CORNERS, 0, HU + 1200).clip(0, 4095), {"RescaleIntercept": "-1024"}),
    "noise of a thin slice": (HU + np.rint(NOISE.normal(0, 250, HU.shape)).astype(np.int64), {}),
    "air only": (np.rint(NOISE.normal(-1000, 8, HU.shape)).astype(np.int64), {}),
    "a wide field of view": (np.pad(head_image(64), 96, constant_values=-1000), {}),
    "a narrow field of view": (HU[40:216, 60:196], {}),
    "contrast": (np.where(HU > 50, HU + 400, HU), {}),
    "cells of air in bone": (np.where((ROW // 4 + COLUMN // 4) % 3 == 0, -900, np.where(HU > 0, 900, HU)), {}),
    "steps of 8": (HU // 8 * 8, {}),
    "few values": (np.where(HU > 500, 900, np.where(HU > -500, 35, -1000)), {}),
}


@pytest.mark.parametrize(("stored", "changes"), RIGHT.values(), ids=RIGHT.keys())
def test_what_scanners_make_is_accepted(stored: np.ndarray, changes: dict[str, Any]) -> None:
    assert outcome(stored.astype(np.int16), **changes) is None


def test_negative_values_of_an_unsigned_file_are_no_fault_where_they_are_padding() -> None:
    stored = (OUTSIDE_AT_2000 % 65536).astype(np.uint16)
    assert outcome(stored, RescaleIntercept="-1024", PixelPaddingValue=63536) is None


def test_a_lossless_stream_with_flipped_bits_is_no_sample_of_wild_values(shared_dicom: Path) -> None:
    whole = (shared_dicom / "transfer_syntaxes" / "jpeg_lossless_sv1.dcm").read_bytes()
    right = read.read_slice(whole)
    assert isinstance(right, Slice)
    seen = set()
    for place in range(len(whole) // 4, len(whole) - 1000, len(whole) // 40):
        content = bytearray(whole)
        content[place] ^= 0x10
        found = read.read_slice(bytes(content))
        if isinstance(found, Slice):
            assert (np.abs(found.hu() - right.hu()) > 200).mean() < 0.05
        else:
            seen.add(found.reason)
    assert Reason.SCRAMBLED in seen


def test_the_rejection_holds_the_numbers() -> None:
    found = read.read_slice(dicom_file((HU % 65536).astype(np.uint16)))
    assert isinstance(found, Rejected)
    assert "%" in found.detail
    assert "HU" in found.detail
