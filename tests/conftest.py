"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.processes import end_all

# Before Ray, W&B or torch are imported: nothing leaves this machine, nothing is written into the home folder.
os.environ |= {
    "OMP_NUM_THREADS": "1",  # of any library: on tiny tensors a second thread costs more than it gains
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_gcs_server_port_wait_time_s": "120",  # 30 are too few on a busy machine
}
for _name in ("RAY_ADDRESS", "WANDB_API_KEY"):
    os.environ.pop(_name, None)

# A busy machine makes an example slow, and that is no fault of the code.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")


@pytest.fixture(scope="module", autouse=True)
def _no_process_left_behind() -> Iterator[None]:
    """What a test has started and not ended, since it failed, ends with the tests of its module."""
    yield
    end_all()


@pytest.fixture(scope="session")
def shared_dicom() -> Path:
    """The folder of real DICOM files, which is not part of the tree."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "dicom"
    if not folder.is_dir():
        pytest.skip(f"no real DICOM files: {folder} is missing")
    return folder
