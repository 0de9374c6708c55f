"""What the scores of a split allow to be said of a network, and no more."""

from __future__ import annotations

import math

from hemodist.dataset.labels import LABELS
from hemodist.metrics.bootstrap import Estimate
from hemodist.metrics.paired import FEW_GROUPS, can_tell
from hemodist.metrics.ranking import RATES
from hemodist.metrics.scores import Scores
from hemodist.reports.as_text import number, percent, percent_interval

FOR_RESEARCH = "For research, not a medical device."
"""Stands on every page, and beside predictions."""

SYNTHETIC = "synthetic phantom data: no statement on medical performance"
"""Stands wherever numbers of phantoms are shown."""


def verdict(scores: Scores) -> tuple[str, str]:
    """Whether the network is better than the trivial answer, in a few words, and the evidence in a sentence or two.

    Better or worse is said only where the paired interval excludes 0 and the swap test over groups agrees; where groups
    or positives are too few for that, these slices cannot tell.
    """
    of_any, apart = scores.labels[LABELS.index("any")], scores.minus_constant
    evidence = (
        f"Weighted log loss {number(scores.weighted_log_loss.value)}, where always answering the training split's "
        f"prevalence gives {number(scores.baselines.constant_prevalence)}"
    )
    if math.isfinite(apart.low):
        evidence += f": a difference of {number(apart.value)} (95 % {number(apart.low)} to {number(apart.high)}"
        evidence += f", p = {apart.p:.2g})" if math.isfinite(apart.p) else ")"
    evidence += (
        f", over {scores.groups:,} patients; {of_any.positive:,} of {of_any.known:,} slices show hemorrhage, "
        f"of {of_any.positive_groups:,} patients."
        if scores.groups > 1
        else f"; {of_any.positive:,} of {of_any.known:,} slices show hemorrhage."
    )
    if not of_any.positive or of_any.positive == of_any.known:
        return "These slices cannot tell", f"All of them answer any alike. {evidence}"
    if not can_tell(scores.groups):
        return "These slices cannot tell", f"Patients are too few for any test, or not known. {evidence}"
    if scores.groups < FEW_GROUPS:
        evidence += f" An interval over fewer than {FEW_GROUPS} patients is too narrow."
    words = {1: "Better than the trivial answer", -1: "Worse than the trivial answer"}
    return words.get(apart.verdict, "These slices cannot tell"), evidence


def at_specificities(scores: Scores) -> list[str]:
    """The sensitivities for `any` at the specificities of `RATES`, a text each, with intervals."""
    of_any = scores.labels[LABELS.index("any")]
    found = (of_any.sensitivity_at_90_specificity, of_any.sensitivity_at_95_specificity)
    return [_at(rate, one) for rate, one in zip(RATES, found, strict=True)]


def _at(rate: float, sensitivity: Estimate) -> str:
    return f"{percent(sensitivity.value)} at {100 * rate:.0f} % specificity{percent_interval(sensitivity)}"
