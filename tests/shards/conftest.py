"""Fixtures of the sharder's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.building import unfinished
from tests.support.dicom_files import KEY, write_source


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pseudonyms that are the same in every run."""
    monkeypatch.setenv(unfinished.KEY_VARIABLE, KEY)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 labelled slices and two files that are none; not to be changed."""
    return write_source(tmp_path_factory.mktemp("data"), 23, broken=2)
