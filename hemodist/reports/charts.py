"""The plots of the report, each as a data URI of an SVG. A panel without a curve is left out, never drawn empty."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.metrics import ranking
from hemodist.metrics.bootstrap import F64, I64, LEVEL, Bool, ratio, resamples
from hemodist.metrics.calibration import bin_sums, calibration_error, reliability
from hemodist.metrics.probabilities import DECISION
from hemodist.metrics.scores import Scores

COLORS = ("#111111", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#1f78b4")
"""One a label; told apart when printed."""

_CURVE_POINTS = 600  # a curve in a picture 4 inches wide needs no more; keeps the file small
_BAND_REPLICATES = 200
_BIN_COLUMNS = 24
_GREY = "#777777"
_COLUMNS = 3


def learning_curves(history: Sequence[Mapping[str, Any]], scores: Scores) -> str | None:
    """Loss, weighted log loss and AUC of `any` over epochs; a panel without a finite number is left out."""
    wanted: tuple[tuple[str, tuple[str, ...], float | None], ...] = (
        ("loss (nats)", ("train_loss", "valid_loss"), None),
        ("weighted log loss (nats)", ("weighted_log_loss",), scores.baselines.constant_prevalence),
        ("AUC of any", ("auc_any",), scores.baselines.constant_auc),
    )
    epochs = [int(row["epoch"]) for row in history]
    values = {key: [_float(row.get(key)) for row in history] for _, keys, _ in wanted for key in keys}
    drawn = [panel for panel in wanted if any(np.isfinite(values[key]).any() for key in panel[1])]
    if not drawn:
        return None
    figure = Figure(figsize=(3.7 * len(drawn), 3.2), layout="constrained")
    for axes, (name, keys, line) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        for key, color in zip(keys, (COLORS[5], COLORS[1]), strict=False):
            if np.isfinite(values[key]).any():
                axes.plot(epochs, values[key], "o-", color=color, markersize=3, linewidth=1.5, label=key)
        if line is not None:
            axes.axhline(line, color=_GREY, linestyle="--", linewidth=1, label="constant answer")
        dress(axes, "epoch", name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axes.legend(frameon=False, fontsize=8)
    return svg_uri(figure)


def roc_curves(p: F64, labels: npt.NDArray[np.integer[Any]], groups: npt.NDArray[Any], scores: Scores) -> str | None:
    """A panel for each label of which both classes occur, with a 95 % band over groups."""
    figure, panels = _panels(labels)
    for i, axes in panels:
        score, positive, (grid, band, _) = _known_with_bands(p, labels, groups, i)
        axes.fill_between(
            grid, band[0], band[1], step="post", color=COLORS[i], alpha=0.18, linewidth=0, label="95 % band"
        )
        curve = ranking.thinned(*ranking.roc_curve(score, positive), _CURVE_POINTS)
        axes.plot(*curve, color=COLORS[i], linewidth=1.6, label="all slices")
        axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="by chance")
        auc = scores.labels[i].auc
        dress(axes, "false positive rate", "true positive rate", unit=True)
        _title(axes, i, positive, f"AUC {auc.value:.3f}" + _range(auc.low, auc.high))
    return _with_legend(figure, panels)


def recall_curves(p: F64, labels: npt.NDArray[np.integer[Any]], groups: npt.NDArray[Any], scores: Scores) -> str | None:
    """Precision over recall: a panel for each label of which both classes occur, with a 95 % band over groups."""
    figure, panels = _panels(labels)
    for i, axes in panels:
        score, positive, (grid, _, band) = _known_with_bands(p, labels, groups, i)
        axes.fill_between(grid, band[0], band[1], color=COLORS[i], alpha=0.18, linewidth=0, label="95 % band")
        precision, recall = ranking.thinned(*ranking.precision_recall_curve(score, positive), _CURVE_POINTS)
        axes.step(np.append(0.0, recall), np.append(precision[0], precision), where="pre", color=COLORS[i],
                  linewidth=1.6, label="all slices")  # fmt: skip
        axes.axhline(positive.mean(), color=_GREY, linestyle="--", linewidth=1, label="by chance")
        area = scores.labels[i].average_precision
        dress(axes, "recall", "precision", unit=True)
        _title(axes, i, positive, f"average precision {area.value:.3f}" + _range(area.low, area.high))
    return _with_legend(figure, panels)


def calibration(p: F64, labels: npt.NDArray[np.integer[Any]], groups: npt.NDArray[Any]) -> str | None:
    """Share of positives over the mean probability in bins, a panel a label, with intervals over groups."""
    figure, panels = _panels(labels)
    for i, axes in panels:
        score, positive, group, counts = _known(p, labels, groups, i)
        mean, share, count = reliability(score, positive)
        hits, sizes = bin_sums(score, positive.astype(np.float64), group, counts.shape[1])
        replicates = ratio(counts @ hits, counts @ sizes)
        filled = np.flatnonzero(count)
        axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="perfect")
        for b in filled:
            defined = replicates[np.isfinite(replicates[:, b]), b]
            if len(defined) > 1:
                low, high = np.percentile(defined, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
                axes.plot([mean[b], mean[b]], [low, high], color=COLORS[i], linewidth=1, alpha=0.6)
        axes.plot(mean[filled], share[filled], "-", color=COLORS[i], linewidth=1)
        axes.scatter(mean[filled], share[filled], s=12 + 90 * count[filled] / count.max(), color=COLORS[i], alpha=0.85,
                     label="bin, area by slices")  # fmt: skip
        dress(axes, f"mean P({LABELS[i]}) in bin", "share with it", unit=True)
        _title(axes, i, positive, f"calibration error {calibration_error(score, positive):.4f}")
    return _with_legend(figure, panels)


def histograms(p: F64, labels: npt.NDArray[np.integer[Any]]) -> str | None:
    """How many slices with and without a label got which probability, a panel a label."""
    figure, panels = _panels(labels)
    edges = np.linspace(0, 1, _BIN_COLUMNS + 1)
    for i, axes in panels:
        known = labels[:, i] != UNKNOWN
        score, positive = p[known, i], labels[known, i] == 1
        for kind, color, name in ((~positive, COLORS[5], "without"), (positive, COLORS[1], "with")):
            axes.hist(score[kind], edges.tolist(), color=color, alpha=0.55, label=f"{name} ({kind.sum()})")
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7, top=4 * max(len(score), 2))
        axes.axvline(DECISION, ymax=0.88, color=_GREY, linestyle=":", linewidth=1)
        dress(axes, f"P({LABELS[i]})", "slices (logarithmic)")
        axes.set_xlim(0, 1)
        axes.set_title(LABELS[i], fontsize=9.5)
        axes.legend(frameon=False, fontsize=7.5, loc="upper right", ncols=2)
    return svg_uri(figure) if panels else None


def _panels(labels: npt.NDArray[np.integer[Any]]) -> tuple[Figure, list[tuple[int, Axes]]]:
    """A figure with axes for each label of which both classes occur."""
    drawn = [i for i in range(len(LABELS)) if (labels[:, i] == 0).any() and (labels[:, i] == 1).any()]
    columns = min(_COLUMNS, max(1, len(drawn)))
    rows = max(1, math.ceil(len(drawn) / columns))
    figure = Figure(figsize=(3.75 * columns, 3.4 * rows), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.06))
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in grid[len(drawn) :]:
        unused.remove()
    return figure, list(zip(drawn, grid, strict=False))


def _with_legend(figure: Figure, panels: list[tuple[int, Axes]]) -> str | None:
    """The figure with one legend below all panels, which mean the same; None without a panel."""
    if not panels:
        return None
    handles, names = panels[0][1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=8.5)
    return svg_uri(figure)


def _known(
    p: F64, labels: npt.NDArray[np.integer[Any]], groups: npt.NDArray[Any], i: int
) -> tuple[F64, Bool, I64, F64]:
    known = labels[:, i] != UNKNOWN
    group = np.unique(groups[known], return_inverse=True)[1].astype(np.int64)
    return p[known, i], labels[known, i] == 1, group, resamples(int(group.max()) + 1, _BAND_REPLICATES, 0)


def _known_with_bands(
    p: F64, labels: npt.NDArray[np.integer[Any]], groups: npt.NDArray[Any], i: int
) -> tuple[F64, Bool, tuple[F64, F64, F64]]:
    score, positive, group, counts = _known(p, labels, groups, i)
    return score, positive, ranking.bands(score, positive, group, counts)


def _title(axes: Axes, i: int, positive: Bool, text: str) -> None:
    axes.set_title(f"{LABELS[i]}: {int(positive.sum())} of {len(positive)}\n{text}", fontsize=9.5)


def _range(low: float, high: float) -> str:
    return f" ({low:.3f} to {high:.3f})" if math.isfinite(low) else ""


def dress(axes: Axes, x: str, y: str, unit: bool = False) -> None:
    """Name the axes and draw a light grid; with `unit`, both run from 0 to 1."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_axisbelow(True)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if unit:
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.03)


def svg_uri(figure: Figure) -> str:
    """The figure as a data URI; as an image of its own, its element names cannot clash with another plot's."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "hemodist"}):  # the same scores give the same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values of a nested mapping, in its own order."""
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", f"{value:g}" if isinstance(value, float) else str(value)
