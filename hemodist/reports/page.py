"""What a person reads after a run: tables in the terminal and one HTML file that can be mailed.

The file is self-contained (inline styles, plots as SVG in data URIs) and needs no network to be read or printed.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from rich.console import Group
from rich.table import Table

from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.metrics import ranking
from hemodist.metrics.bootstrap import F64, Estimate
from hemodist.metrics.pooling import PooledScores
from hemodist.metrics.scores import CALIBRATION_BINS, DECISION, EPSILON, Scores
from hemodist.reports import charts
from hemodist.reports.contents import NO_EXTRAS, Extras, Pointing

HISTORY_COLUMNS = ("epoch", "train_loss", "valid_loss", "accuracy_multi", "time", "weighted_log_loss", "auc_any")
"""The original study's columns in its order (fastai prints them so), then the competition's score and AUC of `any`."""
_TEMPLATE = "page.html.j2"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One score beside one answer that needs no network, as text."""

    score: str
    value: str
    interval: str
    baseline: str
    baseline_value: str
    better: str


def history_header() -> str:
    """Column names for lines of `format_history_row`."""
    return "  ".join(f"{name:>{_width(name)}}" for name in HISTORY_COLUMNS)


def format_history_row(row: Mapping[str, Any]) -> str:
    """One epoch as a line of fixed width, under `history_header`."""
    return "  ".join(f"{cell:>{_width(name)}}" for name, cell in zip(HISTORY_COLUMNS, _cells(row), strict=True))


def scores_table(
    scores: Scores,
    extra_baselines: Mapping[str, float | Estimate] | None = None,
    pooled: Sequence[PooledScores] = (),
    pointing: Pointing | None = None,
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
        by_label.add_row(s.label, *(_number(one.value) for one in shown), _number(s.prevalence))
    for row in comparisons(scores, extra_baselines or {}):
        beside.add_row(*dataclasses.astuple(row))
    parts: list[Table | str] = [by_label, beside]
    if pooled:
        table = Table("unit", "pooled by", "units", "AUC of any", "95 % interval", "average precision of any",
                      "weighted log loss", title="studies and patients")  # fmt: skip
        for cells in _pooled_rows(pooled):
            table.add_row(*cells)
        parts.append(table)
    parts.append(
        f"slices with P(any) below P of a subtype: {_percent(scores.inconsistent.value)}; "
        f"error rate {_number(scores.error_rate.value)}"
    )
    if pointing:
        parts.append(pointing_text(pointing))
    return Group(*parts)


def pointing_text(pointing: Pointing) -> str:
    """The pointing game in one sentence."""
    return (
        f"The heat map's peak lies on the hemorrhage in {pointing.hits} of {pointing.cases} true positives: "
        f"{_percent(pointing.share.value)}{_percents(pointing.share)}; a peak anywhere in the picture would in "
        f"{_percent(pointing.chance)}; the peak of Grad-CAM of {pointing.layer} alone does in "
        f"{_percent(pointing.coarse)}"
    )


def comparisons(scores: Scores, extra_baselines: Mapping[str, float | Estimate]) -> list[Comparison]:
    """Every main score beside every trivial answer to the same question."""
    base = scores.baselines
    rows = [
        _compare("weighted log loss (lower is better)", scores.weighted_log_loss, "constant prevalence",
                 Estimate(base.constant_prevalence), lower=True),
        _compare("AUC of any", scores.auc_any, "any constant", Estimate(base.constant_auc)),
    ]  # fmt: skip
    for name, value in extra_baselines.items():
        rows.append(_compare("AUC of any", scores.auc_any, name, _estimate(value)))
    rows.append(_compare("accuracy_multi", scores.accuracy_multi, "predict none", Estimate(base.predict_none)))
    rows.append(_compare("accuracy_multi", scores.accuracy_multi, "majority", Estimate(base.majority)))
    return rows


def write_report(
    path: Path,
    *,
    title: str,
    history: Sequence[Mapping[str, Any]],
    scores: Scores,
    probabilities: F64,
    labels: npt.NDArray[np.integer[Any]],
    groups: npt.NDArray[Any],
    config: Mapping[str, Any],
    dataset: Mapping[str, Any],
    notes: Sequence[str] = (),
    extra_baselines: Mapping[str, float | Estimate] | None = None,
    extras: Extras = NO_EXTRAS,
    synthetic: bool,
) -> Path:
    """Writes the report, whole or not at all (aside, fsync, rename).

    Args:
        path: The HTML file; its folder is made where missing.
        title: Heading.
        history: A mapping an epoch (epoch, step, train_loss, valid_loss, accuracy_multi, weighted_log_loss, auc_any,
            lr, seconds, images_per_s); empty when only a checkpoint was scored.
        scores: The split's scores.
        probabilities: [n, 6], in [0, 1], of the same split.
        labels: [n, 6], values 0, 1 and `UNKNOWN`.
        groups: [n], the patient group of each slice.
        config: The resolved configuration, nested.
        dataset: Facts about the data set and the split; a mapping of mappings becomes a table of its own.
        notes: Sentences for the reader, shown under the summary.
        extra_baselines: AUC of `any` of further simple answers by name.
        extras: Pooled scores, pictures and the pointing game.
        synthetic: Whether the data are phantoms; the report then says so at its top.

    Returns:
        `path`.

    Raises:
        ValueError: When probabilities or labels are not those that were scored.
        OSError: When the file cannot be written.
    """
    shape = (scores.slices, len(LABELS))
    if probabilities.shape != shape or labels.shape != shape or groups.shape != shape[:1]:
        raise ValueError(
            f"scores are of {shape}, but probabilities are {probabilities.shape}, labels {labels.shape} and groups "
            f"{groups.shape}; pass the arrays that were scored"
        )
    p = np.asarray(probabilities, dtype=np.float64)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hemodist.reports", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": _number, "interval": _interval, "percent": _percent, "threshold": _threshold}
    tables = {name: facts for name, facts in dataset.items() if _is_table(facts)}
    html = environment.get_template(_TEMPLATE).render(
        title=title,
        synthetic=synthetic,
        scores=scores,
        comparisons=comparisons(scores, extra_baselines or {}),
        notes=notes,
        learning=charts.learning_curves(history, scores) if history else None,
        roc=charts.roc_curves(p, labels, groups, scores),
        recall=charts.recall_curves(p, labels, groups, scores),
        one_class=[s for s in scores.labels if not 0 < s.positive < s.known],
        calibration=charts.calibration(p, labels, groups),
        histograms=charts.histograms(p, labels),
        points=operating_points(p, labels),
        pooled=list(_pooled_rows(extras.pooled)),
        missed=[card for card in extras.cards if card.kind == "missed"],
        alarms=[card for card in extras.cards if card.kind == "alarm"],
        windows=", ".join(extras.windows),
        pointing=pointing_text(extras.pointing) if extras.pointing else None,
        history_columns=(*HISTORY_COLUMNS, "lr", "images/s"),
        history=[(*_cells(row), _number(row.get("lr"), 2), _number(row.get("images_per_s"), 1)) for row in history],
        dataset=list(charts.flat({name: facts for name, facts in dataset.items() if name not in tables})),
        tables=[_table(name, facts) for name, facts in tables.items()],
        config=list(charts.flat(config)),
        epsilon=EPSILON,
        bins=CALIBRATION_BINS,
    )
    _write(path, html.encode())
    return path


def operating_points(p: F64, labels: npt.NDArray[np.integer[Any]]) -> list[ranking.OperatingPoint]:
    """Decisions on `any`; none where only one class occurs.

    Args:
        p: [n, 6], in [0, 1].
        labels: [n, 6], values 0, 1 and `UNKNOWN`.
    """
    at = LABELS.index("any")
    known = labels[:, at] != UNKNOWN
    positive = labels[known, at] == 1
    if not positive.any() or positive.all():
        return []
    return ranking.operating_points(p[known, at], positive, DECISION)


def _pooled_rows(pooled: Sequence[PooledScores]) -> list[list[str]]:
    """Cells of a table: level, pooling, units, AUC of any, its interval, average precision, weighted log loss."""
    rows = []
    for one in pooled:
        of_any = one.labels[LABELS.index("any")]
        rows.append(
            [one.level, one.pooling.replace("_", "-"), f"{one.units} ({of_any.positive} with)",
             _number(of_any.auc.value), _interval(of_any.auc), _number(of_any.average_precision.value),
             f"{_number(one.weighted_log_loss.value)} (constant {_number(one.constant_prevalence)})"]
        )  # fmt: skip
    return rows


def _is_table(facts: Any) -> bool:
    return isinstance(facts, Mapping) and bool(facts) and all(isinstance(row, Mapping) for row in facts.values())


def _table(name: str, facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Name, columns and rows of a mapping of mappings."""
    columns = list(dict.fromkeys(column for row in facts.values() for column in row))
    rows = [[title, *(str(row.get(column, "-")) for column in columns)] for title, row in facts.items()]
    return {"name": name, "columns": columns, "rows": rows}


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)  # mkstemp's 0600 would keep colleagues from reading a report on a shared disk
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _compare(score: str, ours: Estimate, name: str, other: Estimate, lower: bool = False) -> Comparison:
    better = ours.value < other.value if lower else ours.value > other.value
    if math.isnan(ours.value) or math.isnan(other.value):
        answer = "not defined"
    elif math.isnan(ours.low):
        answer = "yes" if better else "no"
    else:
        outside = other.value > ours.high if lower else other.value < ours.low
        answer = ("yes" if outside else "yes, within the interval") if better else "no"
    value = _number(other.value) + (f" ({_interval(other)})" if math.isfinite(other.low) else "")
    return Comparison(score, _number(ours.value), _interval(ours), name, value, answer)


def _estimate(value: float | Estimate) -> Estimate:
    return value if isinstance(value, Estimate) else Estimate(float(value))


def _cells(row: Mapping[str, Any]) -> list[str]:
    numbers = {name: _number(row.get(name), 6) for name in HISTORY_COLUMNS}
    return [*({**numbers, "epoch": str(row["epoch"]), "time": _clock(_float(row.get("seconds")))}.values())]


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:02d}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _width(name: str) -> int:
    return max(len(name), 8)


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _number(value: Any, digits: int = 4) -> str:
    """Fixed digits, or significant ones for what they would round away; "-" for what is not defined."""
    x = _float(value)
    if not math.isfinite(x):
        return "-"
    return f"{x:.{digits}f}" if x == 0 or abs(x) >= 10.0 ** (1 - digits) else f"{x:.{max(2, digits - 2)}g}"


def _threshold(value: float) -> str:
    """Digits enough to be applied, also beside 1; "-" where nothing is called."""
    return f"{value:.9g}" if math.isfinite(value) else "-"


def _percent(value: Any) -> str:
    x = _float(value)
    return f"{100 * x:.1f} %" if math.isfinite(x) else "-"


def _percents(estimate: Estimate) -> str:
    if not math.isfinite(estimate.low):
        return ""
    return f" (95 % interval over patients {100 * estimate.low:.0f} to {100 * estimate.high:.0f} %)"


def _interval(estimate: Estimate) -> str:
    return f"{_number(estimate.low)} to {_number(estimate.high)}" if math.isfinite(estimate.low) else "-"
