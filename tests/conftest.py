"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before Ray or W&B are imported: nothing leaves this machine, nothing is written into the home folder.
os.environ |= {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
for _name in ("RAY_ADDRESS", "WANDB_API_KEY"):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session")
def shared_dicom() -> Path:
    """The folder of real DICOM files, which is not part of the tree."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "dicom"
    if not folder.is_dir():
        pytest.skip(f"no real DICOM files: {folder} is missing")
    return folder
