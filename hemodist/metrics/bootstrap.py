"""Estimates with bootstrap intervals over groups.

Slices of one patient are far from independent, so a resample draws groups (a patient with everyone who shares an image
with them) and never slices (Field and Welsh 2007, Bootstrapping clustered data). A resample is a row of counts, how
often each group was drawn; every score below takes all rows at once. A replicate is a score on one resample.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

LEVEL = 0.95
"""Coverage that the bootstrap intervals aim at."""
CHUNK = 1_000_000
"""Numbers held at once per array while a score is bootstrapped: 8 MB. Larger arrays are several times slower."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A score with its percentile bootstrap interval over groups (Efron and Tibshirani 1993, chapter 13).

    Attributes:
        value: The score on the split itself; nan where it is not defined.
        low: Lower end of the 95 % interval; nan without replicates or with fewer than two groups.
        high: Upper end, likewise.
        replicates: Resamples on which the score was defined; the interval is taken from these.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    replicates: int = 0


def ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> F64:
    """Quotient of two arrays, nan where `below` is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    quotient: F64 = np.divide(top, bottom, out=np.full(bottom.shape, np.nan), where=bottom > 0)
    return quotient


def resamples(groups: int, replicates: int, seed: int) -> F64:
    """How often each group is drawn in each resample, f64 [replicates, groups]; a row sums to `groups`.

    There is no row at all where there is only one group: an interval from it would be a point that claims certainty.

    Args:
        groups: How many there are.
        replicates: Resamples to make; 0 for none.
        seed: Key of the Philox generator: the same one draws the same groups.

    Raises:
        ValueError: A negative number of resamples.
    """
    if replicates < 0:
        raise ValueError(f"bootstrap is {replicates}; use 0 for no intervals, or some hundreds of replicates")
    if groups < 2 or replicates == 0:
        return np.zeros((0, groups))
    drawn = np.random.Generator(np.random.Philox(key=seed)).integers(groups, size=(replicates, groups))
    drawn += groups * np.arange(replicates)[:, None]
    return np.bincount(drawn.ravel(), minlength=replicates * groups).reshape(replicates, groups).astype(np.float64)


def mean_estimate(total: npt.NDArray[Any], weight: npt.NDArray[Any], group: I64, counts: F64) -> Estimate:
    """Sum of `total` over sum of `weight`, both [n], and its interval."""
    groups = counts.shape[1]
    above, below = np.bincount(group, total, minlength=groups), np.bincount(group, weight, minlength=groups)
    return interval(float(ratio(total.sum(), weight.sum())), ratio(counts @ above, counts @ below))


def interval(value: float, replicates: F64) -> Estimate:
    """A score with the percentile interval of its replicates, f64 [replicates]; those that are nan are left out."""
    defined = replicates[np.isfinite(replicates)]
    if not defined.size:
        return Estimate(value)
    low, high = np.percentile(defined, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return Estimate(value, float(low), float(high), int(defined.size))
