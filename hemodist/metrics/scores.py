"""Scores of a split: exact, with intervals over patients, beside what a trivial answer would score.

Everything here is a pure function of whole arrays (one row a slice, one column a label in the order of `LABELS`), so
a score is a property of the split and never a mean of batch means. Sums run in the order of the rows: rows in the
split's own order give the same bits whatever the world size was. An unknown label (`UNKNOWN`) counts nowhere, neither
above nor below a fraction line, and `Scores.unknown` says how many there were.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.metrics.bootstrap import F64, I64, Bool, Estimate, mean_estimate, ratio, resamples
from hemodist.metrics.calibration import calibration_estimate
from hemodist.metrics.log_loss import entropy, weighted_entropy
from hemodist.metrics.paired import LOG_LOSS, Difference, swap_test
from hemodist.metrics.plain_json import plain_json
from hemodist.metrics.probabilities import DECISION, comparable, inconsistent, with_prevalence
from hemodist.metrics.ranking import auc, ranking_scores


@dataclasses.dataclass(frozen=True)
class LabelScores:
    """Scores of one label over the slices where it is known; nan where a score is not defined.

    Attributes:
        label: One of `LABELS`.
        known: Slices on which the label is known.
        positive: Slices on which it is present.
        positive_groups: Groups (patients) with such a slice.
        prevalence: positive / known.
        log_loss: Mean binary cross-entropy, natural logarithm.
        auc: Area under the ROC curve; not defined (nan) when only one class occurs.
        average_precision: Area under the stepwise precision-recall curve; not defined without a positive.
        accuracy: Share of right decisions at `DECISION`.
        brier: Mean squared difference of probability and label (Brier 1950).
        calibration_error: Expected calibration error over `CALIBRATION_BINS`.
        sensitivity_at_90_specificity: Highest sensitivity of the thresholds with at least that specificity; likewise
            the other three. The threshold is chosen anew in every resample, so the intervals hold that choice too.
    """

    label: str
    known: int
    positive: int
    positive_groups: int
    prevalence: float
    log_loss: Estimate
    auc: Estimate
    average_precision: Estimate
    accuracy: Estimate
    brier: Estimate
    calibration_error: Estimate
    sensitivity_at_90_specificity: Estimate
    sensitivity_at_95_specificity: Estimate
    specificity_at_90_sensitivity: Estimate
    specificity_at_95_sensitivity: Estimate


@dataclasses.dataclass(frozen=True)
class Baselines:
    """What answers without looking at a picture would score on the same known labels.

    Attributes:
        constant_prevalence: Weighted log loss when every slice gets the training split's prevalence.
        predict_none: `accuracy_multi` when no label is ever called present.
        majority: `accuracy_multi` when each label is always called what it most often is on this very split; no
            constant answer scores higher.
        constant_auc: AUC of any constant.
    """

    constant_prevalence: float
    predict_none: float
    majority: float
    constant_auc: float = 0.5


@dataclasses.dataclass(frozen=True)
class Scores:
    """All scores of one split.

    Attributes:
        slices: Rows scored.
        groups: Distinct groups (patients) among them.
        unknown: Label entries left out because nobody knows them.
        weighted_log_loss: The competition's score, lower is better.
        accuracy_multi: Share of right decisions over all known label entries, higher is better.
        inconsistent: Share of slices whose P(any) is below the largest P of a subtype, which no truth can be;
            `repair_any` mends it. Labels that were not learned do not count; nan where only one is left.
        labels: Scores of each label, in the order of `LABELS`.
        baselines: The trivial answers.
        minus_constant: Weighted log loss minus that of the constant prevalence, paired over groups: below 0 the network
            is better than an answer that looks at nothing.
        seed: Key of the bootstrap's generator.
    """

    slices: int
    groups: int
    unknown: int
    weighted_log_loss: Estimate
    accuracy_multi: Estimate
    inconsistent: Estimate
    labels: tuple[LabelScores, ...]
    baselines: Baselines
    minus_constant: Difference
    seed: int

    @property
    def error_rate(self) -> Estimate:
        """Share of wrong decisions over all known label entries: 1 - `accuracy_multi`."""
        right = self.accuracy_multi
        return Estimate(1 - right.value, 1 - right.high, 1 - right.low, right.replicates)

    @property
    def auc_any(self) -> Estimate:
        """AUC of `any`, the question whether a slice shows hemorrhage at all."""
        return self.labels[LABELS.index("any")].auc

    def to_json(self) -> dict[str, Any]:
        """The scores as plain dicts, lists and numbers; what is not defined is None, never NaN (RFC 8259)."""
        plain: dict[str, Any] = plain_json(
            dataclasses.asdict(self) | {"error_rate": dataclasses.asdict(self.error_rate)}
        )
        return plain


def threshold_auc(fraction: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.integer[Any]]) -> float:
    """AUC of `any` for one number a slice, such as the share of brain-window pixels in the range of blood.

    Args:
        fraction: [n], finite, any scale; higher means hemorrhage.
        labels: [n, 6], values 0, 1 and `UNKNOWN`.

    Returns:
        nan where only one class occurs.
    """
    answer = labels[:, LABELS.index("any")]
    known = answer != UNKNOWN
    return auc(fraction[known].astype(np.float64), answer[known] == 1)


def score(
    probability: F64,
    labels: npt.NDArray[np.integer[Any]],
    groups: npt.NDArray[Any],
    *,
    train_prevalence: F64,
    learned: Bool | None = None,
    bootstrap: int = 500,
    seed: int = 0,
) -> Scores:
    """Scores a split.

    Args:
        probability: [n, 6], in [0, 1]; `probabilities` makes them from logits. A label of which the training knew
            nothing is NaN throughout; where this split knows it, it is scored as the constant answer is.
        labels: [n, 6], integer, values 0, 1 and `UNKNOWN`.
        groups: [n], integers or strings: the patient group of each slice, the unit that is resampled, since slices
            of one patient are far from independent (Field and Welsh 2007 on resampling clusters).
        train_prevalence: [6], of the training split, for the constant baseline; needed for every
            label that is known anywhere in this split. 0 and 1 are taken at their word and clipped by `EPSILON`.
        learned: [6], the labels that may count as inconsistent; None for all.
        bootstrap: Replicates of the intervals; 0 for none.
        seed: Key of the Philox generator that draws the groups.

    Raises:
        ValueError: For shapes that do not match, values out of range or not finite, a split without a known label.
    """
    p = np.asarray(probability, dtype=np.float64)
    if p.shape != (len(p), len(LABELS)) or p.shape != labels.shape:
        raise ValueError(
            f"probabilities {p.shape} and labels {labels.shape} must both be [slices, {len(LABELS)}], a row a slice"
        )
    group = check_labels(labels, groups)
    absent = np.isnan(p).all(axis=0)
    if not np.isfinite(p[:, ~absent]).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(p))} of {p.size} probabilities are not finite")
    low, high = np.nanmin(p, initial=1), np.nanmax(p, initial=0)
    if low < 0 or high > 1:
        raise ValueError(
            f"probabilities lie in [{low:g}, {high:g}], not in [0, 1]; pass logits through "
            "hemodist.metrics.probabilities.probabilities first"
        )
    known = labels != UNKNOWN
    constant = _check_prevalence(train_prevalence, known)
    taught = p if learned is None else np.where(learned, p, np.nan)
    p = with_prevalence(p, constant)
    counts = resamples(int(group.max()) + 1, bootstrap, seed)
    right = ((p > DECISION) == (labels == 1)) & known
    loss, weight = weighted_entropy(p, labels)
    trivial, _ = weighted_entropy(np.broadcast_to(constant, p.shape), labels)
    none, majority = constant_accuracies(labels)
    return Scores(
        slices=len(p),
        groups=int(group.max()) + 1,
        unknown=int((~known).sum()),
        weighted_log_loss=mean_estimate(loss, weight, group, counts),
        accuracy_multi=mean_estimate(right.sum(axis=1), known.sum(axis=1), group, counts),
        inconsistent=mean_estimate(inconsistent(taught), comparable(taught), group, counts),
        labels=scores_by_label(p, labels, group, counts),
        baselines=Baselines(
            constant_prevalence=float(trivial.sum() / weight.sum()), predict_none=none, majority=majority
        ),
        minus_constant=_minus_constant(loss - trivial, weight, group, counts),
        seed=seed,
    )


def constant_accuracies(labels: npt.NDArray[np.integer[Any]]) -> tuple[float, float]:
    """`accuracy_multi` of calling no label present, and of each label's majority: labels [n, 6], one known at least."""
    negatives, positives = (labels == 0).sum(axis=0), (labels == 1).sum(axis=0)
    known = (negatives + positives).sum()
    return float(negatives.sum() / known), float(np.maximum(negatives, positives).sum() / known)


def _minus_constant(apart: F64, weight: F64, group: I64, counts: F64) -> Difference:
    """The difference of two systems: apart [n] of the weighted entropies, weight [n]; without resamples, no test."""
    between = mean_estimate(apart, weight, group, counts)
    p = swap_test(np.bincount(group, apart) / weight.sum()) if len(counts) else math.nan
    return Difference("network", "constant prevalence", LOG_LOSS, between.value, between.low, between.high, p)


def scores_by_label(p: F64, labels: npt.NDArray[np.integer[Any]], group: I64, counts: F64) -> tuple[LabelScores, ...]:
    """`_label_scores` of every label, on the rows where it is known: p [n, 6], labels [n, 6], group [n]."""
    known = labels != UNKNOWN
    return tuple(
        _label_scores(name, p[known[:, i], i], labels[known[:, i], i] == 1, group[known[:, i]], counts)
        for i, name in enumerate(LABELS)
    )


def _label_scores(name: str, p: F64, positive: Bool, group: I64, counts: F64) -> LabelScores:
    """Scores of one label.

    Args:
        name: One of `LABELS`.
        p: [n], in [0, 1], where the label is known.
        positive: [n].
        group: [n], 0 to the columns of `counts` - 1.
        counts: [replicates, groups], from `hemodist.metrics.bootstrap.resamples`.
    """
    one = np.ones(len(p))

    def mean(values: npt.NDArray[Any]) -> Estimate:
        return mean_estimate(values, one, group, counts)

    ranking = ranking_scores(p, positive, group, counts)
    return LabelScores(
        label=name,
        known=len(p),
        positive=int(positive.sum()),
        positive_groups=len(np.unique(group[positive])),
        prevalence=float(ratio(positive.sum(), len(p))),
        log_loss=mean(entropy(p, positive)),
        auc=ranking.auc,
        average_precision=ranking.average_precision,
        accuracy=mean((p > DECISION) == positive),
        brier=mean((p - positive) ** 2),
        calibration_error=calibration_estimate(p, positive, group, counts),
        sensitivity_at_90_specificity=ranking.sensitivity_at[0],
        sensitivity_at_95_specificity=ranking.sensitivity_at[1],
        specificity_at_90_sensitivity=ranking.specificity_at[0],
        specificity_at_95_sensitivity=ranking.specificity_at[1],
    )


def check_labels(labels: npt.NDArray[np.integer[Any]], groups: npt.NDArray[Any]) -> I64:
    """Refuses labels and groups that cannot be scored; gives the groups as numbers from 0."""
    if labels.ndim != 2 or labels.shape[1] != len(LABELS) or groups.shape != labels.shape[:1]:
        raise ValueError(f"labels {labels.shape} must be [slices, {len(LABELS)}] and groups {groups.shape} [slices]")
    if len(labels) == 0:
        raise ValueError("the split is empty: no slice to score; choose another fold or a larger subset")
    if not np.issubdtype(labels.dtype, np.integer) or not np.isin(labels, (0, 1, UNKNOWN)).all():
        raise ValueError(
            f"labels ({labels.dtype}) hold {np.unique(labels)[:8].tolist()}; only the integers 0, 1 "
            f"and {UNKNOWN} (unknown) can be scored"
        )
    if (labels == UNKNOWN).all():
        raise ValueError(f"none of the {len(labels)} slices has a known label: there is nothing to score")
    if groups.dtype.kind not in "iuUSO":
        raise ValueError(f"groups have dtype {groups.dtype}; pass integers or strings, one a slice")
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _check_prevalence(train_prevalence: F64, known: Bool) -> F64:
    """Refuses a training prevalence that is missing for a label that is scored."""
    constant = np.asarray(train_prevalence, dtype=np.float64)
    if constant.shape != (len(LABELS),):
        raise ValueError(f"train_prevalence has shape {constant.shape}, expected ({len(LABELS)},): one number a label")
    bad = known.any(axis=0) & ~((constant >= 0) & (constant <= 1))
    if bad.any():
        named = ", ".join(f"{LABELS[i]} {constant[i]:g}" for i in np.flatnonzero(bad))
        raise ValueError(f"train_prevalence must lie in [0, 1] for every label that is scored, but: {named}")
    return np.where(np.isnan(constant), 0.5, constant)  # a label that is known nowhere is never looked up
