"""What scores amount to, in sentences that their evidence carries."""

from __future__ import annotations

import math

from hemodist.dataset.labels import LABELS
from hemodist.metrics.bootstrap import Estimate
from hemodist.metrics.paired import CONSTANT, FEW_GROUPS, can_tell
from hemodist.metrics.scores import Scores
from hemodist.reports.as_text import interval_text, number

NO_DEVICE = "For research, not a medical device."
PHANTOMS = "synthetic phantom data: no statement on medical performance"
CANNOT_TELL = "cannot tell"


def verdict(scores: Scores) -> str:
    """Is the network better than the trivial answer? One sentence, which `evidence` carries."""
    asked = f"the network is better than the trivial answer ({CONSTANT})"
    if why := too_few(scores):
        return f"These slices cannot tell whether {asked}: {why}."
    if not (shown := scores.over_constant.verdict):
        return f"These slices cannot tell whether {asked}."
    return f"On these slices {asked if shown > 0 else asked.replace('better', 'worse')}."


def evidence(scores: Scores) -> str:
    """On how many slices, patients and positives, and with which paired interval."""
    one, of_any = scores.over_constant, scores.labels[LABELS.index("any")]
    text = (
        f"Evidence: {scores.slices:,} slices of {scores.groups:,} patient groups; any is present on "
        f"{of_any.positive:,} slices of {of_any.positive_groups:,} groups. Weighted log loss "
        f"{number(scores.weighted_log_loss.value)}, {CONSTANT} {number(scores.baselines.constant_prevalence)}: "
        f"difference {one.value:+.4f}"
    )
    if math.isnan(one.low):
        return f"{text}, without an interval."
    text += f" (paired 95 % interval {one.low:+.4f} to {one.high:+.4f}; p = {one.p:.2g}); below 0 is better."
    return text + (
        f" Intervals over fewer than {FEW_GROUPS} groups are too narrow." if scores.groups < FEW_GROUPS else ""
    )


def sensitivities(scores: Scores) -> str:
    """Sensitivity for `any` at 90 and 95 % specificity, with intervals; empty where it is not defined."""
    of_any = scores.labels[LABELS.index("any")]
    if math.isnan(of_any.sensitivity_at_90_specificity.value):
        return ""
    at_90, at_95 = (_with_interval(one) for one in (
        of_any.sensitivity_at_90_specificity, of_any.sensitivity_at_95_specificity))  # fmt: skip
    return f"Sensitivity for any: {at_90} at 90 % specificity, {at_95} at 95 %, thresholds chosen on these very slices."


def too_few(scores: Scores) -> str:
    """Why there is too little evidence for any verdict; empty where there is enough.

    Patients with a hemorrhage are what a network is for, so as many of them are asked for as of patients at all.
    """
    for count, of in (
        (scores.groups, "patient groups"),
        (scores.labels[LABELS.index("any")].positive_groups, "patient groups with hemorrhage"),
    ):
        if not can_tell(count):
            return f"they are of {count} {of}, and no test can show a difference on fewer than 6"
    return ""


def _with_interval(one: Estimate) -> str:
    return number(one.value) + (f" (95 % interval {interval_text(one)})" if math.isfinite(one.low) else "")
