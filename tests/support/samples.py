"""Samples made with the settings that suit a test, and within the limits that hold for any file."""

from __future__ import annotations

import resource
import time

import numpy as np

from shards.dicom.reasons import Rejected
from shards.packing.task import PackConfig, Sample, Task, make_sample

THREE = ("brain", "subdural", "soft_tissue")

MAX_SECONDS = 5.0
"""CPU time for one file."""

MAX_BYTES = 2**30
"""Memory for one file, beyond what the process has had before."""


def task_with(**changes: object) -> Task:
    defaults: dict[str, object] = {
        "size": 32, "windows": THREE, "encoding": "jpeg", "quality": 95,
        "crop_head": False, "min_brain_fraction": 0.0, "key_style": "stem",
    }  # fmt: skip
    config = PackConfig(**(defaults | changes))  # type: ignore[arg-type]
    return Task(0, "", "", (), b"", config, "", b"k" * 16)


def assert_sample_or_rejection(content: bytes, where: object = None, seconds: float = MAX_SECONDS) -> None:
    """Make a sample with and without the crop to the head, in little memory and so many seconds of CPU time."""
    for crop_head in (False, True):
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        made = make_sample(content, "a/ID_1.dcm", np.zeros(6, np.int8), task_with(crop_head=crop_head))
        assert isinstance(made, Sample | Rejected), where
        # What nobody foresaw is a rejection for the user, and for us a fault to be looked at.
        assert not (isinstance(made, Rejected) and made.detail.startswith("no sample can be made")), (where, made)
        assert time.process_time() - start < seconds, where
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown * 1024 < MAX_BYTES, where
