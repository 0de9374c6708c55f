"""Which of two systems is better on the same slices: differences with intervals over patients and seeds, and a test.

All systems are scored on the same resamples of patients (`bootstrap.resamples`), so what is common to both sides of a
difference cancels. Where a system was trained from several seeds, its score is the mean over them, and the
interval of a difference draws the seeds again as well as the patients (Owen 2007, The pigeonhole bootstrap).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.metrics.bootstrap import F64, I64, LEVEL, Estimate, interval, ratio
from hemodist.metrics.log_loss import weighted_entropy
from hemodist.metrics.probabilities import DECISION
from hemodist.metrics.ranking import auc_replicates

LOG_LOSS, AUC, ACCURACY = "weighted_log_loss", "auc_any", "accuracy_multi"
SCORES = (LOG_LOSS, AUC, ACCURACY)
"""What is compared; less is better in the first, more in the others."""

FEW_GROUPS = 30
"""Below so many patients a percentile interval over them is too narrow (Cameron, Gelbach and Miller 2008)."""

_EXACT_GROUPS = 14
"""Up to so many patients all 2**14 swaps are looked at; beyond, `_SWAPS` random ones."""
_SWAPS = 10_000
_ROWS = 1000  # swaps held at once: 30 MB for 4,000 patients
_SEED_STREAM = 1  # second word of the key, so that seeds are not drawn from the stream that patients are drawn from


@dataclasses.dataclass(frozen=True, eq=False)
class ResampledScores:
    """One system's scores on the split and on every resample of its patients.

    Attributes:
        name: of the system.
        value: by score, f64 [seeds]; nan where the score is not defined.
        replicates: by score, f64 [seeds, replicates].
        losses: f64 [seeds, groups], each group's part of the weighted log loss; a row sums to that seed's score.
    """

    name: str
    value: Mapping[str, F64]
    replicates: Mapping[str, F64]
    losses: F64

    def estimate(self, score: str) -> Estimate:
        """The mean over the seeds as they are, with its interval over patients."""
        return interval(float(self.value[score].mean()), self.replicates[score].mean(axis=0))


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much two systems differ, first minus second.

    Attributes:
        first: name of a system.
        second: name of another.
        score: one of `SCORES`.
        value: mean over the first's seeds minus mean over the second's.
        low: lower end of the 95 % interval over patients and seeds.
        high: upper end.
        p: of the swap test over patients, two-sided; nan for scores other than the weighted log loss.
    """

    first: str
    second: str
    score: str
    value: float
    low: float
    high: float
    p: float

    @property
    def verdict(self) -> int:
        """1 where the first is better, -1 where the second is, 0 where these slices and seeds cannot tell.

        The interval must exclude 0 and, where there is a test, it must agree at 1 - `LEVEL`.
        """
        if not (self.low > 0 or self.high < 0) or self.p >= 1 - LEVEL:
            return 0
        return (-1 if self.score == LOG_LOSS else 1) * (1 if self.value > 0 else -1)


def resample_scores(
    name: str,
    probability: F64,
    labels: npt.NDArray[np.integer[Any]],
    groups: I64,
    counts: F64,
) -> ResampledScores:
    """Score a system on the split and on every resample.

    Args:
        name: of the system.
        probability: [seeds, n, 6], in [0, 1].
        labels: [n, 6], values 0, 1 and `UNKNOWN`.
        groups: int64 [n], each slice's group, numbered from 0.
        counts: f64 [replicates, groups], see `hemodist.metrics.bootstrap.resamples`.

    Raises:
        ValueError: the shapes do not match.
    """
    if probability.ndim != 3 or probability.shape[1:] != labels.shape or counts.shape[1] <= groups.max(initial=-1):
        raise ValueError(
            f"{name}: probabilities {probability.shape}, labels {labels.shape} and resamples {counts.shape} do not "
            "match; pass [seeds, slices, labels], [slices, labels] and [replicates, groups]"
        )
    drawn = np.concatenate([np.ones((1, counts.shape[1])), counts])  # the split itself is the first row
    known = labels != UNKNOWN
    right = ((probability > DECISION) == (labels == 1)) & known

    def by_group(rows: Iterable[npt.NDArray[Any]]) -> F64:
        return np.stack([np.bincount(groups, values, minlength=counts.shape[1]) for values in rows])

    losses = by_group(weighted_entropy(p, labels)[0] for p in probability)
    weight, entries = by_group([weighted_entropy(probability[0], labels)[1], known.sum(axis=1)])
    of_any = LABELS.index("any")
    asked = known[:, of_any]
    positive = labels[asked, of_any] == 1
    scores = {
        LOG_LOSS: ratio(losses @ drawn.T, drawn @ weight),
        AUC: np.stack([auc_replicates(p[asked, of_any], positive, groups[asked], drawn) for p in probability]),
        ACCURACY: ratio(by_group(right.sum(axis=2)) @ drawn.T, drawn @ entries),
    }
    value = {score: values[:, 0] for score, values in scores.items()}
    return ResampledScores(
        name, value, {score: values[:, 1:] for score, values in scores.items()}, losses / weight.sum()
    )


def difference(first: ResampledScores, second: ResampledScores, score: str, *, seed: int = 0) -> Difference:
    """First minus second.

    Args:
        first: scored on the same resamples as `second`.
        second: the other system.
        score: one of `SCORES`.
        seed: key of the draws of training seeds and of swaps.
    """
    ours, theirs = first.replicates[score], second.replicates[score]
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"{first.name} and {second.name} were resampled {ours.shape[1]} and {theirs.shape[1]} times")
    rng = np.random.Generator(np.random.Philox(key=[seed, _SEED_STREAM]))
    drawn = np.zeros(ours.shape[1])
    for sign, part in ((1, ours), (-1, theirs)):
        share = rng.multinomial(len(part), np.full(len(part), 1 / len(part)), size=part.shape[1]) / len(part)
        drawn += sign * (share.T * part).sum(axis=0)
    between = interval(float(first.value[score].mean() - second.value[score].mean()), drawn)
    p = swap_test(first.losses.mean(axis=0) - second.losses.mean(axis=0), seed) if score == LOG_LOSS else math.nan
    return Difference(first.name, second.name, score, between.value, between.low, between.high, p)


def swap_test(differences: F64, seed: int = 0) -> float:
    """Two-sided p of a randomisation test: were the two systems alike, each patient's answers could be swapped.

    Exact for any number of patients (Fisher 1935, The Design of Experiments, section 21), so five of them can never
    give less than 2 / 2**5: too few patients cannot tell. SciPy's `permutation_test` gives the same p where it is
    exact, but takes 11 times as long for 400 patients, and for 4,000 seven times and 240 MB more.

    Args:
        differences: f64 [groups], each group's part of the difference.
        seed: key of the random swaps where there are too many to look at all.

    >>> swap_test(np.array([1.0, 2.0, 3.0]))
    0.25
    """
    observed = abs(differences.sum()) * (1 - 1e-12)  # rounding must not make equals unequal
    groups = len(differences)
    if groups <= _EXACT_GROUPS:
        bits = np.arange(2**groups)[:, None] >> np.arange(groups) & 1
        return float((np.abs((1 - 2 * bits) @ differences) >= observed).mean())
    rng = np.random.Generator(np.random.Philox(key=seed))
    hits = 0
    for _ in range(_SWAPS // _ROWS):
        signs = 1 - 2 * rng.integers(2, size=(_ROWS, groups), dtype=np.int8)
        hits += int((np.abs(signs @ differences) >= observed).sum())
    return (1 + hits) / (1 + _SWAPS)


def can_tell(groups: int) -> bool:
    """Whether the swap test over so many patients can give a p below 1 - `LEVEL` at all.

    >>> can_tell(5), can_tell(6)
    (False, True)
    """
    return 2.0 ** (1 - groups) < 1 - LEVEL


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) adjustment of p values for asking several questions at once, in the same order.

    >>> holm([0.01, 0.5, 0.02])
    [0.03, 0.5, 0.04]
    """
    adjusted = [1.0] * len(p)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def adjusted_by_holm(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """The same differences, their p values adjusted by `holm` for being asked together."""
    adjusted = holm([one.p for one in differences])
    return tuple(dataclasses.replace(one, p=p) for one, p in zip(differences, adjusted, strict=True))
