"""Scores as tables: by label, beside trivial answers, and of studies and patients."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table

from hemodist.dataset.labels import LABELS
from hemodist.metrics.bootstrap import Estimate
from hemodist.metrics.paired import can_tell
from hemodist.metrics.pooling import PooledScores
from hemodist.metrics.scores import Scores
from hemodist.reports.as_text import interval_text, number, percent, percent_interval
from hemodist.reports.contents import PointingGame
from hemodist.reports.verdict import at_specificities, verdict

_NOTHING = 1e-9
"""A log loss below it is that of a clipped probability: the answer is right on every unit."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One score beside one answer that needs no network, as text."""

    score: str
    value: str
    interval: str
    baseline: str
    baseline_value: str
    better: str


def scores_table(
    scores: Scores,
    extra_baselines: Mapping[str, float] | None = None,
    pooled: Sequence[PooledScores] = (),
    pointing: PointingGame | None = None,
) -> Group:
    """The scores of each label, the main scores beside the trivial answers, and those of studies and patients.

    Args:
        scores: What `hemodist.metrics.scores.score` gave.
        extra_baselines: AUC of `any` of further simple answers by name, such as a brain-window threshold.
        pooled: Of studies and patients.
        pointing: The pointing game, where it was played.
    """
    by_label = Table("label", "AUC", "average precision", "sensitivity at 90 % specificity", "log loss", "Brier",
                     "accuracy", "prevalence", title="by label")  # fmt: skip
    beside = Table(
        "score", "value", "95 % interval", "baseline", "its value", "better?", title="beside trivial answers"
    )
    for s in scores.labels:
        shown = (s.auc, s.average_precision, s.sensitivity_at_90_specificity, s.log_loss, s.brier, s.accuracy)
        by_label.add_row(s.label, *(number(one.value) for one in shown), number(s.prevalence))
    for row in comparisons(scores, extra_baselines or {}):
        beside.add_row(*dataclasses.astuple(row))
    parts: list[Table | str] = ["{}. {}".format(*verdict(scores)), by_label, beside]
    if pooled:
        table = Table("unit", "pooled by", "units", "AUC of any", "95 % interval", "average precision of any",
                      "weighted log loss", title="studies and patients")  # fmt: skip
        for cells in pooled_rows(pooled):
            table.add_row(*cells)
        parts.append(table)
    parts.append("sensitivity for any: " + "; ".join(at_specificities(scores)))
    parts.append(
        f"slices with P(any) below P of a subtype: {percent(scores.inconsistent.value)}; "
        f"error rate {number(scores.error_rate.value)}"
    )
    if pointing:
        parts.append(pointing_text(pointing))
    return Group(*parts)


def comparisons(scores: Scores, extra_baselines: Mapping[str, float]) -> list[Comparison]:
    """Every main score beside every trivial answer to the same question."""
    base, loss = scores.baselines, scores.weighted_log_loss
    paired = {1: "yes", -1: "no", 0: "cannot tell"}[scores.minus_constant.verdict]
    rows = [
        Comparison("weighted log loss (lower is better)", number(loss.value), interval_text(loss),
                   "constant prevalence", number(base.constant_prevalence), f"{paired} (paired)"),
    ]  # fmt: skip
    asked = [("AUC of any", scores.auc_any, name, value) for name, value in extra_baselines.items()]
    for score, ours, name, other in (
        ("AUC of any", scores.auc_any, "any constant", base.constant_auc), *asked,
        ("accuracy_multi", scores.accuracy_multi, "predict none", base.predict_none),
        ("accuracy_multi", scores.accuracy_multi, "majority", base.majority),
    ):  # fmt: skip
        rows.append(compare(score, ours, name, other, scores.groups))
    return rows


def compare(score: str, ours: Estimate, name: str, other: float, groups: int) -> Comparison:
    """Our score beside a trivial answer's: better or worse only where its interval over enough groups leaves it out.

    Args:
        score: its name.
        ours: the network's.
        name: of the trivial answer.
        other: what that one scores; more is better.
        groups: that were scored.
    """
    if math.isnan(ours.value) or math.isnan(other):
        answer = "not defined"
    elif not can_tell(groups) or not (other < ours.low or other > ours.high):
        answer = "cannot tell"
    else:
        answer = "yes" if other < ours.low else "no"
    return Comparison(score, number(ours.value), interval_text(ours), name, number(other), answer)


def pooled_rows(pooled: Sequence[PooledScores]) -> list[list[str]]:
    """Cells of a table: level, pooling, units, AUC of any, its interval, average precision, weighted log loss."""
    rows = []
    for one in pooled:
        constant = number(one.constant_prevalence) if one.constant_prevalence > _NOTHING else "0: units are all alike"
        of_any = one.labels[LABELS.index("any")]
        rows.append(
            [one.level, one.pooling.replace("_", "-"), f"{one.units} ({of_any.positive} with)",
             number(of_any.auc.value), interval_text(of_any.auc), number(of_any.average_precision.value),
             f"{number(one.weighted_log_loss.value)} (constant {constant})"]
        )  # fmt: skip
    return rows


def pointing_text(pointing: PointingGame) -> str:
    """The pointing game in one sentence."""
    return (
        f"The heat map's peak lies on the hemorrhage in {pointing.hits} of {pointing.cases} true positives: "
        f"{percent(pointing.share.value)}{percent_interval(pointing.share)}; a peak anywhere in the picture would in "
        f"{percent(pointing.chance)}; the peak of Grad-CAM of {pointing.layer} alone does in "
        f"{percent(pointing.coarse)}"
    )
