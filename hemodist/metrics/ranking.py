"""Scores and curves that depend only on the order of the scores: ROC, precision-recall, operating points.

One pass from the highest score down serves the split itself and all its resamples: a resample is the same slices with
their groups' counts as weights. A slice is called positive where its score is at or above the threshold, so equal
scores are one threshold, and nothing is interpolated between thresholds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.metrics.bootstrap import CHUNK, F64, I64, LEVEL, Bool, Estimate, interval, ratio
from hemodist.metrics.probabilities import DECISION

RATES = (0.90, 0.95)
"""Specificities at which sensitivity is given, and sensitivities at which specificity is."""
_SLACK = 1e-9  # of a rate: 0.95 x 20 must not miss 19 by rounding
_BAND_POINTS = 101
_BAND_COLUMNS = 600  # thresholds that a band looks at, at most; a picture shows no more


@dataclasses.dataclass(frozen=True)
class RankingScores:
    """What the order of the scores of one label is worth; nan where a class is missing.

    Attributes:
        average_precision: Area under the stepwise precision-recall curve; needs a positive.
        sensitivity_at: Highest sensitivity among the thresholds with at least each specificity of `RATES`.
        specificity_at: Highest specificity among the thresholds with at least each sensitivity of `RATES`.
    """

    average_precision: Estimate
    sensitivity_at: tuple[Estimate, ...]
    specificity_at: tuple[Estimate, ...]


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """Decisions at one threshold: a slice is called positive where its score is at or above it.

    Attributes:
        name: How the threshold was chosen.
        threshold: Inf where nothing is called positive.
        true_positive: Slices called rightly; likewise the others.
    """

    name: str
    threshold: float
    true_positive: int
    false_negative: int
    false_positive: int
    true_negative: int

    @property
    def sensitivity(self) -> float:
        """Share of positives that are called; nan without any."""
        return float(ratio(self.true_positive, self.true_positive + self.false_negative))

    @property
    def specificity(self) -> float:
        """Share of negatives that are not called; nan without any."""
        return float(ratio(self.true_negative, self.true_negative + self.false_positive))

    @property
    def precision(self) -> float:
        """Share of calls that are right (positive predictive value at this split's prevalence); nan without any."""
        return float(ratio(self.true_positive, self.true_positive + self.false_positive))

    @property
    def negative_value(self) -> float:
        """Share of right answers among slices not called (negative predictive value); nan without any."""
        return float(ratio(self.true_negative, self.true_negative + self.false_negative))


def roc_curve(score: F64, positive: Bool) -> tuple[F64, F64]:
    """False and true positive rate at every distinct threshold, both rising from 0 to 1; both classes must occur."""
    true, false, _ = _thresholds(score, positive)
    rates = false / max(1, int((~positive).sum())), true / max(1, int(positive.sum()))
    return np.concatenate([[0.0], rates[0]]), np.concatenate([[0.0], rates[1]])


def precision_recall_curve(score: F64, positive: Bool) -> tuple[F64, F64]:
    """Precision and recall at every distinct threshold, recall rising to 1; a positive must occur."""
    true, false, _ = _thresholds(score, positive)
    return true / (true + false), true / max(1, int(positive.sum()))


def thinned(x: F64, y: F64, points: int) -> tuple[F64, F64]:
    """At most `points` of a curve's points, evenly along it, both ends among them: what a picture needs."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    keep = np.unique(np.searchsorted(along, np.linspace(0, along[-1], points)))
    keep[-1] = len(x) - 1  # of several equal points the last
    return x[keep], y[keep]


def average_precision(score: F64, positive: Bool) -> float:
    """Sum of precision times the gain in recall, without interpolation; nan without a positive."""
    true, false, _ = _thresholds(score, positive)
    return float(_average_precision(true[None], false[None])[0]) if len(true) else math.nan


def ranking_scores(score: F64, positive: Bool, group: I64, counts: F64) -> RankingScores:
    """All scores of `RankingScores` with bootstrap intervals over groups.

    Args:
        score: [n], any finite scale.
        positive: [n].
        group: [n], 0 to the columns of `counts` - 1.
        counts: [replicates, groups], from `hemodist.metrics.bootstrap.resamples`.
    """
    kinds = 1 + 2 * len(RATES)
    if not positive.any():
        nothing = Estimate(math.nan)
        return RankingScores(nothing, (nothing,) * len(RATES), (nothing,) * len(RATES))
    value = _of_sweep(*(part[None] for part in _thresholds(score, positive)[:2]))[0]
    parts = [_of_sweep(true, false) for true, false in _sweeps(score, positive, group, counts)]
    replicates = np.concatenate([np.empty((0, kinds)), *parts])
    found = [interval(float(value[kind]), replicates[:, kind]) for kind in range(kinds)]
    return RankingScores(found[0], tuple(found[1 : 1 + len(RATES)]), tuple(found[1 + len(RATES) :]))


def operating_points(probability: F64, positive: Bool, decision: float) -> list[OperatingPoint]:
    """Decisions above `decision`, and at the best thresholds for each specificity and sensitivity of `RATES`.

    Those thresholds are chosen on these very slices; on others they keep their promise roughly only.

    Args:
        probability: [n], in [0, 1].
        positive: [n]; both classes must occur.
        decision: A label is decided present where its probability is strictly above it.
    """
    true, false, threshold = _thresholds(probability, positive)
    positives, negatives = int(positive.sum()), int((~positive).sum())

    def at(name: str, index: int) -> OperatingPoint:
        hits, alarms = (int(true[index]), int(false[index])) if index >= 0 else (0, 0)
        limit = float(threshold[index]) if index >= 0 else math.inf
        return OperatingPoint(name, limit, hits, positives - hits, alarms, negatives - alarms)

    called = int(np.count_nonzero(threshold > decision)) - 1
    points = [dataclasses.replace(at(f"P > {decision:g}", called), threshold=decision)]
    for rate in RATES:  # the last threshold that still has the specificity, from the highest down
        kept = negatives - false >= (rate - _SLACK) * negatives
        points.append(at(f"specificity {100 * rate:.0f} %", int(np.count_nonzero(kept)) - 1))
    points += [
        at(f"sensitivity {100 * rate:.0f} %", int(np.argmax(true >= (rate - _SLACK) * positives))) for rate in RATES
    ]  # the first that has the sensitivity
    return points


def operating_points_of_any(probability: F64, labels: npt.NDArray[np.integer[Any]]) -> list[OperatingPoint]:
    """`operating_points` of the label `any`, decided at `DECISION`; none where only one class occurs.

    Args:
        probability: [n, 6], in [0, 1].
        labels: [n, 6], values 0, 1 and `UNKNOWN`.
    """
    at = LABELS.index("any")
    known = labels[:, at] != UNKNOWN
    positive = labels[known, at] == 1
    if not positive.any() or positive.all():
        return []
    return operating_points(probability[known, at], positive, DECISION)


def bands(score: F64, positive: Bool, group: I64, counts: F64) -> tuple[F64, F64, F64]:
    """Pointwise 95 % bootstrap bands of both curves over groups.

    Args:
        score: [n], any finite scale.
        positive: [n]; both classes must occur.
        group: [n].
        counts: [replicates, groups].

    Returns:
        A grid f64 [101] from 0 to 1; lowest and highest true positive rate at those false positive rates, f64 [2, 101];
        lowest and highest precision at those recalls, f64 [2, 101]. nan where no replicate has both classes.
    """
    grid = np.linspace(0, 1, _BAND_POINTS)
    rates, precisions = [], []
    for true, false in _sweeps(score, positive, group, counts, columns=_BAND_COLUMNS):
        defined = (true[:, -1] > 0) & (false[:, -1] > 0)
        for hits, alarms in zip(true[defined], false[defined], strict=True):
            recall, alarm = hits / hits[-1], alarms / alarms[-1]
            rates.append(np.append(0.0, recall)[np.searchsorted(alarm, grid, "right")])
            calls = hits + alarms
            first = np.minimum(np.searchsorted(recall, np.maximum(grid, 1e-12), "left"), len(recall) - 1)
            precisions.append(hits[first] / calls[first])
    if not rates:
        nothing = np.full((2, _BAND_POINTS), np.nan)
        return grid, nothing, nothing
    ends = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
    return grid, np.percentile(rates, ends, axis=0), np.percentile(precisions, ends, axis=0)


def _thresholds(score: F64, positive: Bool) -> tuple[F64, F64, F64]:
    """True and false positives and the score at each distinct threshold, from the highest score down; f64 [k] each."""
    order, last = _order(score)
    true = np.cumsum(positive[order])[last].astype(np.float64)
    return true, last + 1.0 - true, score[order][last]


def _order(score: F64) -> tuple[I64, I64]:
    order = np.argsort(-score, kind="stable")
    return order, np.flatnonzero(np.append(np.diff(score[order]) != 0, True))[: len(score)]


def _sweeps(
    score: F64, positive: Bool, group: I64, counts: F64, columns: int | None = None
) -> Iterator[tuple[F64, F64]]:
    """True and false positives of each replicate, f64 [rows, thresholds], a chunk of replicates at a time."""
    order, last = _order(score)
    if columns is not None and len(last) > columns:
        # Half of them even in rank, half in recall: of a rare label nearly all recall lies within the first ranks.
        hits = np.cumsum(positive[order])[last]
        even = np.linspace(0, len(last) - 1, columns // 2).round().astype(np.int64)
        last = last[np.union1d(even, np.searchsorted(hits, np.linspace(1, hits[-1], columns // 2)))]
    of_slice, hit = group[order], positive[order]
    rows = max(1, CHUNK // max(1, len(score)))
    for start in range(0, len(counts), rows):
        weight = counts[start : start + rows][:, of_slice]
        calls = np.cumsum(weight, axis=1)[:, last]
        weight *= hit
        true = np.cumsum(weight, axis=1)[:, last]
        yield true, calls - true


def _of_sweep(true: F64, false: F64) -> F64:
    """Average precision, sensitivities and specificities of each row, f64 [rows, 1 + 2 x rates]."""
    positives, negatives = true[:, -1:], false[:, -1:]
    found = [_average_precision(true, false)]
    for rate in RATES:
        kept = negatives - false >= (rate - _SLACK) * negatives
        best = np.where(kept, true, 0.0).max(axis=1, keepdims=True)
        found.append(np.where(negatives > 0, ratio(best, positives), np.nan)[:, 0])
    for rate in RATES:
        kept = true >= (rate - _SLACK) * positives
        best = np.where(kept, negatives - false, 0.0).max(axis=1, keepdims=True)
        found.append(np.where(positives > 0, ratio(best, negatives), np.nan)[:, 0])
    return np.stack(found, axis=1)


def _average_precision(true: F64, false: F64) -> F64:
    precision = np.nan_to_num(ratio(true, true + false))  # a threshold that no weight reaches gains no recall
    return ratio((precision * np.diff(true, axis=1, prepend=0.0)).sum(axis=1), true[:, -1])
