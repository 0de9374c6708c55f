"""Which part of a bench's small data set is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hemodist.dataset.dataset import DataSet
from hemodist.plan.split import fold_of


def smallest_fold(dataset: Path) -> int:
    """Of five, the one with fewest slices but not none: a small phantom has few patients."""
    counts = np.bincount(fold_of(DataSet.open(str(dataset)).column("group"), 5, 0), minlength=5)
    return int(np.where(counts > 0, counts, counts.max() + 1).argmin())
