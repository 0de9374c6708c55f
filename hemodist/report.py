"""What a person reads after a run: tables in the terminal and one HTML file that can be mailed.

The file is self-contained (inline styles, plots as SVG in data URIs) and needs no network to be read or printed.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Group
from rich.table import Table

from hemodist import metrics
from hemodist.bootstrap import F64, Bool, Estimate
from hemodist.manifest import LABELS, UNKNOWN
from hemodist.metrics import Scores

HISTORY_COLUMNS = ("epoch", "train_loss", "valid_loss", "accuracy_multi", "time", "weighted_log_loss", "auc_any")
"""The original study's columns in its order (fastai prints them so), then the competition's score and AUC of `any`."""
_COLORS = ("#111111", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#1f78b4")  # one a label; told apart when printed
_CURVE_POINTS = 600  # a curve in a picture 4 inches wide needs no more; keeps the file small
_TEMPLATE = "report_template.html.j2"


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


def history_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """All epochs as the original study printed them, with weighted log loss and AUC of `any` added."""
    table = Table(*HISTORY_COLUMNS, title="training")
    for column in table.columns:
        column.justify = "right"
    for row in rows:
        table.add_row(*_cells(row))
    return table


def scores_table(scores: Scores, extra_baselines: Mapping[str, float | Estimate] | None = None) -> Group:
    """The scores of each label, and the main scores beside the trivial answers.

    Args:
        scores: What `hemodist.metrics.score` gave.
        extra_baselines: AUC of `any` of further simple answers by name, such as a brain-window threshold.
    """
    by_label = Table("label", "AUC", "average precision", "log loss", "accuracy", "prevalence", title="by label")
    beside = Table(
        "score", "value", "95 % interval", "baseline", "its value", "better?", title="beside trivial answers"
    )
    for s in scores.labels:
        cells = (s.auc.value, s.average_precision, s.log_loss, s.accuracy, s.prevalence)
        by_label.add_row(s.label, *(_number(cell) for cell in cells))
    for row in comparisons(scores, extra_baselines or {}):
        beside.add_row(*dataclasses.astuple(row))
    return Group(by_label, beside)


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
    config: Mapping[str, Any],
    dataset: Mapping[str, Any],
    notes: Sequence[str] = (),
    extra_baselines: Mapping[str, float | Estimate] | None = None,
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
        config: The resolved configuration, nested.
        dataset: Facts about the data set and the split, nested.
        notes: Sentences for the reader, shown under the summary.
        extra_baselines: AUC of `any` of further simple answers by name.
        synthetic: Whether the data are phantoms; the report then says so at its top.

    Returns:
        `path`.

    Raises:
        ValueError: When probabilities or labels are not those that were scored.
        OSError: When the file cannot be written.
    """
    shape = (scores.slices, len(LABELS))
    if probabilities.shape != shape or labels.shape != shape:
        raise ValueError(
            f"scores are of {shape}, but probabilities are {probabilities.shape} and labels {labels.shape}; "
            "pass the arrays that were scored"
        )
    p = np.asarray(probabilities, dtype=np.float64)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hemodist", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"number": _number, "interval": _interval}
    html = environment.get_template(_TEMPLATE).render(
        title=title,
        synthetic=synthetic,
        scores=scores,
        comparisons=comparisons(scores, extra_baselines or {}),
        notes=notes,
        learning=_learning_curves(history, scores) if history else None,
        curves=_label_curves(p, labels, scores),
        one_class=[s for s in scores.labels if not 0 < s.positive < s.known],
        calibration=_calibration(p, labels),
        history_columns=(*HISTORY_COLUMNS, "lr", "images/s"),
        history=[(*_cells(row), _number(row.get("lr"), 2), _number(row.get("images_per_s"), 1)) for row in history],
        dataset=list(_flat(dataset)),
        config=list(_flat(config)),
        epsilon=metrics.EPSILON,
        bins=metrics.CALIBRATION_BINS,
    )
    _write(path, html.encode())
    return path


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


def _learning_curves(history: Sequence[Mapping[str, Any]], scores: Scores) -> str | None:
    """Loss, weighted log loss and AUC of `any` over epochs; a panel without a finite number is left out."""
    wanted: tuple[tuple[str, tuple[str, ...], float | None, str], ...] = (
        ("loss (nats)", ("train_loss", "valid_loss"), None, ""),
        ("weighted log loss (nats)", ("weighted_log_loss",), scores.baselines.constant_prevalence, "constant"),
        ("AUC of any", ("auc_any",), scores.baselines.constant_auc, "constant"),
    )
    epochs = [int(row["epoch"]) for row in history]
    values = {key: [_float(row.get(key)) for row in history] for _, keys, _, _ in wanted for key in keys}
    drawn = [panel for panel in wanted if any(np.isfinite(values[key]).any() for key in panel[1])]
    if not drawn:
        return None
    figure = Figure(figsize=(3.7 * len(drawn), 3.2), layout="constrained")
    for axes, (name, keys, line, line_name) in zip(
        figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True
    ):
        for key, color in zip(keys, (_COLORS[5], _COLORS[1]), strict=False):
            if np.isfinite(values[key]).any():
                axes.plot(epochs, values[key], "o-", color=color, markersize=3, linewidth=1.5, label=key)
        if line is not None:
            axes.axhline(line, color="#777777", linestyle="--", linewidth=1, label=f"{line_name} answer")
        _dress(axes, "epoch", name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _label_curves(p: F64, labels: npt.NDArray[np.integer[Any]], scores: Scores) -> str | None:
    """ROC and precision-recall of every label of which both classes occur, with one legend beside them."""
    if not any(0 < s.positive < s.known for s in scores.labels):
        return None
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, s in enumerate(scores.labels):
        if not 0 < s.positive < s.known:
            continue
        score, positive = _known(p, labels, i)
        text = f"{s.label} ({s.positive} of {s.known})\nAUC {s.auc.value:.3f}, AP {s.average_precision:.3f}"
        style: dict[str, Any] = {"color": _COLORS[i], "linewidth": 2.2 if s.label == "any" else 1.3}
        left.plot(*_thin(*metrics.roc_curve(score, positive)), label=text, **style)
        precision, recall = _thin(*metrics.precision_recall_curve(score, positive))
        right.step(np.append(0.0, recall), np.append(precision[0], precision), where="pre", **style)
    left.plot([0, 1], [0, 1], color="#777777", linestyle="--", linewidth=1)
    _dress(left, "false positive rate", "true positive rate", unit=True)
    _dress(right, "recall", "precision", unit=True)
    figure.legend(loc="outside right center", frameon=False, fontsize=8, labelspacing=1)
    return _svg(figure)


def _calibration(p: F64, labels: npt.NDArray[np.integer[Any]]) -> str | None:
    """Reliability of `any` and the histogram of its probabilities; None when only one class occurs."""
    score, positive = _known(p, labels, LABELS.index("any"))
    if not positive.any() or positive.all():
        return None
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    mean, share, count = metrics.reliability(score, positive)
    filled = count > 0
    left.plot([0, 1], [0, 1], color="#777777", linestyle="--", linewidth=1, label="perfect")
    left.plot(mean[filled], share[filled], "-", color=_COLORS[5], linewidth=1)
    left.scatter(mean[filled], share[filled], s=12 + 150 * count[filled] / count.max(), color=_COLORS[5], alpha=0.8,
                 label="bin, area by slices")  # fmt: skip
    _dress(left, "mean P(any) in bin", "share with hemorrhage", unit=True)
    left.legend(frameon=False, fontsize=8, loc="upper left")
    edges = np.linspace(0, 1, 31)
    for kind, color, name in ((~positive, _COLORS[5], "without"), (positive, _COLORS[1], "with")):
        right.hist(score[kind], edges.tolist(), color=color, alpha=0.55, label=f"{name} hemorrhage ({kind.sum()})")
    right.set_yscale("log")
    right.set_ylim(bottom=0.7)
    _dress(right, "P(any)", "slices (logarithmic)")
    right.set_xlim(0, 1)
    right.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _dress(axes: Axes, x: str, y: str, unit: bool = False) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_axisbelow(True)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if unit:
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.03)


def _svg(figure: Figure) -> str:
    """The figure as a data URI; as an image of its own, its element names cannot clash with another plot's."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "hemodist"}):  # the same scores give the same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _known(p: F64, labels: npt.NDArray[np.integer[Any]], i: int) -> tuple[F64, Bool]:
    known = labels[:, i] != UNKNOWN
    return p[known, i], labels[known, i] == 1


def _thin(x: F64, y: F64) -> tuple[F64, F64]:
    keep = np.unique(np.linspace(0, len(x) - 1, _CURVE_POINTS).round().astype(int))
    return x[keep], y[keep]


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


def _interval(estimate: Estimate) -> str:
    return f"{_number(estimate.low)} to {_number(estimate.high)}" if math.isfinite(estimate.low) else "-"


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values of a nested mapping, in its own order."""
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", f"{value:g}" if isinstance(value, float) else str(value)
