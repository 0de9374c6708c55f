"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_dicom() -> Path:
    """The folder of real DICOM files, which is not part of the tree."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "dicom"
    if not folder.is_dir():
        pytest.skip(f"no real DICOM files: {folder} is missing")
    return folder
