"""Whether probabilities mean what they say: of the slices with P near 0.3, do 30 % show the label?"""

from __future__ import annotations

import numpy as np

from hemodist.metrics.bootstrap import F64, I64, Bool, Estimate, interval, ratio

CALIBRATION_BINS = 15
"""Equal-width bins of the calibration error (Guo et al. 2017, On Calibration of Modern Neural Networks)."""


def reliability(probability: F64, positive: Bool, bins: int = CALIBRATION_BINS) -> tuple[F64, F64, I64]:
    """Mean probability, share of positives and count in equal-width bins of the probability; nan in empty bins."""
    index = np.minimum((probability * bins).astype(np.int64), bins - 1)
    count = np.bincount(index, minlength=bins)
    mean = ratio(np.bincount(index, probability, minlength=bins), count)
    share = ratio(np.bincount(index, positive.astype(np.float64), minlength=bins), count)
    return mean, share, count


def calibration_error(probability: F64, positive: Bool, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: |share of positives - mean probability|, averaged over the slices of the bins."""
    group = np.zeros(len(probability), np.int64)
    return calibration_estimate(probability, positive, group, np.zeros((0, 1)), bins).value


def calibration_estimate(
    probability: F64, positive: Bool, group: I64, counts: F64, bins: int = CALIBRATION_BINS
) -> Estimate:
    """`calibration_error` of [n] probabilities, with its interval over groups."""
    excess, size = bin_sums(probability, positive - probability, group, counts.shape[1], bins)
    # In a bin, count x |share - mean| is |sum of label - probability|.
    replicates = ratio(np.abs(counts @ excess).sum(axis=1), (counts @ size).sum(axis=1))
    return interval(float(ratio(np.abs(excess.sum(axis=0)).sum(), len(probability))), replicates)


def bin_sums(probability: F64, values: F64, group: I64, groups: int, bins: int = CALIBRATION_BINS) -> tuple[F64, F64]:
    """Sums of `values` and numbers of slices, by group and equal-width bin of the probability; f64 [groups, bins]."""
    cell = group * bins + np.minimum((probability * bins).astype(np.int64), bins - 1)
    sums, sizes = (np.bincount(cell, weights, minlength=groups * bins) for weights in (values, None))
    shape = (groups, bins)
    return sums.reshape(shape).astype(np.float64), sizes.reshape(shape).astype(np.float64)
