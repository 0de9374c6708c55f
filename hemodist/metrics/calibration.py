"""Whether probabilities mean what they say: of the slices with P near 0.3, do 30 % show the label?"""

from __future__ import annotations

import numpy as np

from hemodist.metrics.bootstrap import F64, I64, Bool, Estimate, interval, ratio

CALIBRATION_BINS = 15
"""Equal-width bins of the calibration error (Guo et al. 2017, On Calibration of Modern Neural Networks)."""


def calibration_estimate(probability: F64, positive: Bool, group: I64, counts: F64) -> Estimate:
    """Expected calibration error, [n]: |share of positives - mean probability| of a bin, averaged over the slices."""
    excess, size = bin_sums(probability, positive - probability, group, counts.shape[1])
    # In a bin, count x |share - mean| is |sum of label - probability|.
    replicates = ratio(np.abs(counts @ excess).sum(axis=1), (counts @ size).sum(axis=1))
    return interval(float(ratio(np.abs(excess.sum(axis=0)).sum(), len(probability))), replicates)


def bin_sums(probability: F64, values: F64, group: I64, groups: int) -> tuple[F64, F64]:
    """Sums of `values` and numbers of slices, by group and equal-width bin of the probability; f64 [groups, bins].

    scikit-learn's `calibration_curve` has no groups, and takes a probability between two bins into the lower one.
    """
    bins = CALIBRATION_BINS
    cell = group * bins + np.minimum((probability * bins).astype(np.int64), bins - 1)
    sums, sizes = (
        np.bincount(cell, weights, minlength=groups * bins).reshape(groups, bins).astype(np.float64)
        for weights in (values, None)
    )
    return sums, sizes
