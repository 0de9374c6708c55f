"""A dry run: from some of the files, how many slices, bytes and rejections a build would give, and its time."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np

from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.storage.store import Store
from shards.building.build import BuildPlan
from shards.dicom.reasons import Rejected
from shards.packing import task
from shards.packing.tar import BLOCK

SAMPLE = 64
"""Files that are looked at. The files are in random order, so the first ones stand for all."""


def estimate(todo: BuildPlan, cpus: int, count: int = SAMPLE) -> dict[str, Any]:
    """Look at the first files of the plan and extrapolate.

    Args:
        todo: a plan; none of its tasks is run, and nothing is written.
        cpus: CPUs that the build would have.
        count: number of files to look at.

    Returns:
        What would come out, for people. Extrapolated figures say `about`.

    Raises:
        StoreError: a file cannot be read.
    """
    tasks = todo.tasks
    files = tasks.files[:count]
    source = Store.open(tasks.template.source)
    reasons: Counter[str] = Counter()
    stored = 0
    unknown = np.full(len(LABELS), UNKNOWN, np.int8)
    start = time.perf_counter()
    for file in files:
        made = task.read_and_make(source, file, unknown, tasks.template)
        if isinstance(made, Rejected):
            reasons[made.reason.value] += 1
        else:
            stored += sum(BLOCK + len(part) + -len(part) % BLOCK for part in (made.image, made.json))
    seconds = time.perf_counter() - start
    scale = len(tasks.files) / len(files)
    rejected = sum(reasons.values())
    rate = len(files) / seconds
    return {
        "files looked at": len(files),
        "samples": f"about {round((len(files) - rejected) * scale):,} of {len(tasks.files):,} files",
        "shards": len(tasks),
        "bytes": f"about {round(stored * scale):,}",
        "slices/s on one CPU": f"{rate:.1f}",
        "time": f"about {len(tasks.files) / (rate * cpus) / 60:.1f} min on {cpus} CPUs",
        "expected rejections": {reason: f"about {round(found * scale):,}" for reason, found in sorted(reasons.items())},
    }
