"""The device under test: a GPU; or, to try the tests themselves on a machine without one, the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.support.dataset import make_dataset

VARIABLE = "HEMODIST_TEST_DEVICE"


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The first GPU; or what the environment says, such as `cpu`."""
    name = os.environ.get(VARIABLE, "cuda:0")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip(f"torch finds no CUDA device; {VARIABLE}=cpu runs the same tests on the CPU")
    return torch.device(name)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set of JPEGs of 64 pixels, `data`."""
    folder = tmp_path_factory.mktemp("gpu")
    make_dataset(folder / "data", samples=160, patients=30, per_shard=25, size=64, encoding="JPEG")
    return folder
