from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from shards.dicom.decoder_process import DecodeError, Decoder
from tests.support.dicom_files import dataset, hu_image

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    made = Decoder()
    yield made
    made.close()


def options(side: int) -> dict[str, str | int]:
    return {
        "rows": side, "columns": side, "number_of_frames": 1, "samples_per_pixel": 1, "pixel_keyword": "PixelData",
        "photometric_interpretation": "MONOCHROME2", "bits_allocated": 16, "bits_stored": 16,
        "pixel_representation": 1,
    }  # fmt: skip


def frame(side: int = 32) -> bytes:
    made = dataset(hu_image(side))
    made.compress(RLELossless, generate_instance_uid=False)
    return bytes(made.PixelData)


def test_frames_are_decoded_one_after_the_other(decoder: Decoder) -> None:
    for side in (32, 8, 100):
        found = decoder.decode(RLELossless, frame(side), options(side))
        np.testing.assert_array_equal(found.reshape(side, side), hu_image(side))


def test_after_a_crash_the_next_frame_is_decoded(decoder: Decoder) -> None:
    decoder.decode(RLELossless, frame(), options(32))
    assert decoder._process is not None
    decoder._process.kill()
    decoder._process.wait()
    with pytest.raises(DecodeError, match="signal or code 9"):
        decoder.decode(RLELossless, frame(), options(32))
    assert decoder.decode(RLELossless, frame(), options(32)).size == 32 * 32


def test_a_frame_that_wants_more_memory_than_the_limit_is_an_error(decoder: Decoder) -> None:
    huge = encapsulate([struct.pack("<16I", 2, 64, 70, *[0] * 13) + bytes(64)])
    with pytest.raises(DecodeError):
        decoder.decode(RLELossless, huge, options(40_000))
    assert decoder.decode(RLELossless, frame(), options(32)).size == 32 * 32
    assert decoder._process is not None
    assert psutil.Process(decoder._process.pid).memory_info().rss < 2**30


def test_the_helper_ends_with_the_process_that_started_it() -> None:
    script = (
        "import os, sys; from shards.dicom.decoder_process import SHARED; SHARED._start();"
        "print(SHARED._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    helper = int(done.stdout)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(helper).wait(10)
    assert not psutil.pid_exists(helper)
