"""Scores and curves that depend only on the order of the scores: ROC, precision-recall, operating points.

Those of the split itself are scikit-learn's, which takes half a second to import and so is imported where something is
scored. Those of its resamples come from one pass from the highest score down: a resample is the same slices with their
groups' counts as weights. A slice is called positive where its score is at or above the threshold, so equal scores are
one threshold, and nothing is interpolated between thresholds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

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
        auc: Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.
        average_precision: Area under the stepwise precision-recall curve; needs a positive.
        sensitivity_at: Highest sensitivity among the thresholds with at least each specificity of `RATES`.
        specificity_at: Highest specificity among the thresholds with at least each sensitivity of `RATES`.
    """

    auc: Estimate
    average_precision: Estimate
    sensitivity_at: tuple[Estimate, ...]
    specificity_at: tuple[Estimate, ...]


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """Decisions at one threshold: a slice is called positive where its score is at or above it.

    Attributes:
        name: How the threshold was chosen.
        threshold: The one with the fewest digits that calls these slices; inf where nothing is called positive.
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
    from sklearn import metrics

    false, true, _ = metrics.roc_curve(positive, score, drop_intermediate=False)
    return false, true


def precision_recall_curve(score: F64, positive: Bool) -> tuple[F64, F64]:
    """Precision and recall at every distinct threshold, recall rising to 1; a positive must occur."""
    from sklearn import metrics

    precision, recall, _ = metrics.precision_recall_curve(positive, score)
    return precision[-2::-1], recall[-2::-1]  # without the point at recall 0, which no threshold has


def thinned(x: F64, y: F64, points: int) -> tuple[F64, F64]:
    """At most `points` of a curve's points, evenly along it, both ends among them: what a picture needs."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    keep = np.unique(np.searchsorted(along, np.linspace(0, along[-1], points)))
    keep[-1] = len(x) - 1  # of several equal points the last
    return x[keep], y[keep]


def ranking_scores(score: F64, positive: Bool, group: I64, counts: F64) -> RankingScores:
    """All scores of `RankingScores` with bootstrap intervals over groups.

    Args:
        score: [n], any finite scale.
        positive: [n].
        group: [n], 0 to the columns of `counts` - 1.
        counts: [replicates, groups], from `hemodist.metrics.bootstrap.resamples`.
    """
    kinds = 2 + 2 * len(RATES)
    value = np.full(kinds, np.nan)
    value[0] = auc(score, positive)
    replicates = [np.empty((kinds, 0))]
    if positive.any():
        from sklearn import metrics

        _, false, _, true, _ = metrics.confusion_matrix_at_thresholds(positive, score)
        value[1] = metrics.average_precision_score(positive, score)
        value[2:] = _at_rates(true[:, None], false[:, None])[:, 0]
        for true, false in _sweeps(score, positive, group, counts):
            scores = np.stack([_auc(true, false), _average_precision(true, false)])
            replicates.append(np.concatenate([scores, _at_rates(true, false)]))
    found = [interval(float(one), many) for one, many in zip(value, np.concatenate(replicates, axis=1), strict=True)]
    return RankingScores(found[0], found[1], tuple(found[2 : 2 + len(RATES)]), tuple(found[2 + len(RATES) :]))


def auc(score: F64, positive: Bool) -> float:
    """Area under the ROC curve of [n] scores; nan when only one class occurs."""
    if not positive.any() or positive.all():
        return math.nan
    from sklearn import metrics

    return float(metrics.roc_auc_score(positive, score))


def auc_replicates(score: F64, positive: Bool, group: I64, counts: F64) -> F64:
    """AUC of each resample, f64 [replicates]; nan where a class is missing. Arguments as of `ranking_scores`."""
    return np.concatenate([np.empty(0), *(_auc(*sweep) for sweep in _sweeps(score, positive, group, counts))])


def operating_points(probability: F64, positive: Bool, decision: float) -> list[OperatingPoint]:
    """Decisions above `decision`, and at the best thresholds for each specificity and sensitivity of `RATES`.

    Those thresholds are chosen on these very slices; on others they keep their promise roughly only.

    Args:
        probability: [n], in [0, 1].
        positive: [n]; both classes must occur.
        decision: A label is decided present where its probability is strictly above it.
    """
    from sklearn import metrics

    _, false, _, true, threshold = metrics.confusion_matrix_at_thresholds(positive, probability)
    positives, negatives = int(positive.sum()), int((~positive).sum())

    def at(name: str, index: int) -> OperatingPoint:
        hits, alarms = (int(true[index]), int(false[index])) if index >= 0 else (0, 0)
        below = float(threshold[index + 1]) if index + 1 < len(threshold) else 0.0
        limit = _shortest(below, float(threshold[index])) if index >= 0 else math.inf
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


def _shortest(low: float, high: float) -> float:
    """The number with the fewest decimals in (low, high], 0 <= low < high <= 1.

    >>> _shortest(0.3617, 0.3731), _shortest(0.99991, 0.999987), _shortest(0.0, 3.2e-7)
    (0.37, 0.99998, 3e-07)
    """
    for digits in range(17):
        scale = 10.0**digits
        rounded: float = math.floor(high * scale) / scale
        if low < rounded <= high:
            return rounded
    return high


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
        defined = (true[-1] > 0) & (false[-1] > 0)
        for hits, alarms in zip(true.T[defined], false.T[defined], strict=True):
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


def _sweeps(
    score: F64, positive: Bool, group: I64, counts: F64, columns: int | None = None
) -> Iterator[tuple[F64, F64]]:
    """True and false positives of each replicate, f64 [thresholds, rows], a chunk of replicates at a time."""
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))[: len(score)]  # slice of each threshold
    if columns is not None and len(last) > columns:
        # Half of them even in rank, half in recall: of a rare label nearly all recall lies within the first ranks.
        hits = np.cumsum(positive[order])[last]
        even = np.linspace(0, len(last) - 1, columns // 2).round().astype(np.int64)
        last = last[np.union1d(even, np.searchsorted(hits, np.linspace(1, hits[-1], columns // 2)))]
    first = np.empty(len(score), np.int64)  # the first threshold that calls a slice
    first[order] = np.repeat(np.arange(len(last)), np.diff(last, prepend=-1))
    gained = [
        csr_array((np.ones(kind.sum()), (first[kind], group[kind])), shape=(len(last), counts.shape[1]))
        for kind in (positive, ~positive)
    ]
    rows = max(1, CHUNK // max(1, len(last)))
    for start in range(0, len(counts), rows):
        drawn = counts[start : start + rows].T
        true, false = (np.cumsum(one @ drawn, axis=0) for one in gained)
        yield true, false


def _auc(true: F64, false: F64) -> F64:
    """Area under each ROC curve of a sweep, f64 [rows]."""
    wins = np.diff(false, axis=0, prepend=0.0) * (2 * true - np.diff(true, axis=0, prepend=0.0))
    return ratio(wins.sum(axis=0) / 2, true[-1] * false[-1])


def _average_precision(true: F64, false: F64) -> F64:
    precision = np.nan_to_num(ratio(true, true + false))  # a threshold that no weight reaches gains no recall
    return ratio((precision * np.diff(true, axis=0, prepend=0.0)).sum(axis=0), true[-1])


def _at_rates(true: F64, false: F64) -> F64:
    """Sensitivities and specificities of each row at `RATES`, f64 [2 x rates, rows]."""
    rejected = false[-1] - false
    found = []
    for wanted, kept in ((true, rejected), (rejected, true)):
        of_wanted, of_kept = (false[-1] if part is rejected else true[-1] for part in (wanted, kept))
        for rate in RATES:
            best = np.where(kept >= (rate - _SLACK) * of_kept, wanted, 0.0).max(axis=0)
            found.append(np.where(of_kept > 0, ratio(best, of_wanted), np.nan))
    return np.stack(found)
