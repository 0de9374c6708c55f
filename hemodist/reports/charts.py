"""The plots of the report, each as a data URI of an SVG. A panel without a curve is left out, never drawn empty.

Margins are fixed, in inches: to find them, matplotlib draws every figure twice, which costs more than all curves.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.metrics import ranking
from hemodist.metrics.bootstrap import F64, I64, LEVEL, Bool, ratio, resamples
from hemodist.metrics.calibration import bin_sums
from hemodist.metrics.probabilities import DECISION
from hemodist.metrics.scores import Scores
from hemodist.reports.as_text import as_float

COLORS = ("#111111", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#1f78b4")
"""One a label; told apart when printed."""
_GRID = "#e5e5e5"
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9.5,
    "axes.titley": 1.0,  # where it is does not have to be worked out
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "svg.hashsalt": "hemodist",  # the same scores give the same bytes
}

_CURVE_POINTS = 600  # a curve in a picture 4 inches wide needs no more; keeps the file small
_BAND_REPLICATES = 200
_BIN_COLUMNS = 24
_GREY = "#777777"
_COLUMNS = 3
_TICKS = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


@mpl.rc_context(STYLE)
def learning_curves(history: Sequence[Mapping[str, Any]], scores: Scores) -> str | None:
    """Loss, weighted log loss and AUC of `any` over epochs; a panel without a finite number is left out."""
    wanted: tuple[tuple[str, tuple[str, ...], float | None], ...] = (
        ("loss (nats)", ("train_loss", "valid_loss"), None),
        ("weighted log loss (nats)", ("weighted_log_loss",), scores.baselines.constant_prevalence),
        ("AUC of any", ("auc_any",), scores.baselines.constant_auc),
    )
    epochs = [int(row["epoch"]) for row in history]
    values = {key: [as_float(row.get(key)) for row in history] for _, keys, _ in wanted for key in keys}
    drawn = [panel for panel in wanted if any(np.isfinite(values[key]).any() for key in panel[1])]
    if not drawn:
        return None
    figure, panels = grid(len(drawn), (2.8, 2.55), gap=(0.9, 0), left=0.85, top=0.15, bottom=0.5)
    for axes, (name, keys, line) in zip(panels, drawn, strict=True):
        for key, color in zip(keys, (COLORS[5], COLORS[1]), strict=False):
            if np.isfinite(values[key]).any():
                axes.plot(epochs, values[key], "o-", color=color, markersize=3, linewidth=1.5, label=key)
        if line is not None:
            axes.axhline(line, color=_GREY, linestyle="--", linewidth=1, label="constant answer")
        axes.set(xlabel="epoch", ylabel=name, xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.legend()
    return svg_uri(figure)


@mpl.rc_context(STYLE)
def ranking_curves(
    p: F64, labels: npt.NDArray[np.integer[Any]], groups: npt.NDArray[Any], scores: Scores
) -> tuple[str, str] | None:
    """ROC curves, and precision over recall: a panel a label that has both classes, with 95 % bands over groups."""
    drawn = _both_classes(labels)
    if not drawn:
        return None
    group, counts = _resampled(groups)
    (roc, roc_panels), (recall, recall_panels) = (grid(len(drawn)) for _ in range(2))
    for i, left, right in zip(drawn, roc_panels, recall_panels, strict=True):
        known = labels[:, i] != UNKNOWN
        score, positive = p[known, i], labels[known, i] == 1
        at, roc_band, recall_band = ranking.bands(score, positive, group[known], counts)
        band: dict[str, Any] = {"color": COLORS[i], "alpha": 0.18, "linewidth": 0,
                                "label": "95 % band" if len(counts) else None}  # fmt: skip
        line: dict[str, Any] = {"color": COLORS[i], "linewidth": 1.6, "label": "all slices"}
        chance: dict[str, Any] = {"color": _GREY, "linestyle": "--", "linewidth": 1, "label": "by chance"}
        left.fill_between(at, roc_band[0], roc_band[1], step="post", **band)
        left.plot(*ranking.thinned(*ranking.roc_curve(score, positive), _CURVE_POINTS), **line)
        left.plot([0, 1], [0, 1], **chance)
        right.fill_between(at, recall_band[0], recall_band[1], **band)
        precision, reached = ranking.thinned(*ranking.precision_recall_curve(score, positive), _CURVE_POINTS)
        right.step(np.append(0.0, reached), np.append(precision[0], precision), where="pre", **line)
        right.axhline(positive.mean(), **chance)
        for axes, name, one in ((left, "AUC", scores.labels[i].auc),
                                (right, "average precision", scores.labels[i].average_precision)):  # fmt: skip
            between = f" ({one.low:.3f} to {one.high:.3f})" if math.isfinite(one.low) else ""
            _title(axes, i, positive, f"{name} {one.value:.3f}{between}")
    _alike(roc_panels, "false positive rate", "true positive rate")
    _alike(recall_panels, "recall", "precision")
    return _with_legend(roc, roc_panels), _with_legend(recall, recall_panels)


@mpl.rc_context(STYLE)
def calibration(p: F64, labels: npt.NDArray[np.integer[Any]], groups: npt.NDArray[Any], scores: Scores) -> str | None:
    """Share of positives over the mean probability in bins, a panel a label, with intervals over groups."""
    drawn = _both_classes(labels)
    if not drawn:
        return None
    group, counts = _resampled(groups)
    figure, panels = grid(len(drawn))
    for i, axes in zip(drawn, panels, strict=True):
        known = labels[:, i] != UNKNOWN
        score, positive = p[known, i], labels[known, i] == 1
        hits, sizes = bin_sums(score, positive.astype(np.float64), group[known], counts.shape[1])
        filled = np.flatnonzero(sizes.sum(axis=0))
        hits, sizes = hits[:, filled], sizes[:, filled]
        count = sizes.sum(axis=0)
        mean = bin_sums(score, score, group[known], counts.shape[1])[0].sum(axis=0)[filled] / count
        share = hits.sum(axis=0) / count
        replicates = ratio(counts @ hits, counts @ sizes)
        axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="perfect")
        barred = np.isfinite(replicates).sum(axis=0) > 1
        if barred.any():
            ends = np.nanpercentile(replicates[:, barred], [50 * (1 - LEVEL), 50 * (1 + LEVEL)], axis=0)
            axes.vlines(mean[barred], *ends, color=COLORS[i], linewidth=1, alpha=0.6)
        axes.plot(mean, share, "-", color=COLORS[i], linewidth=1)
        axes.scatter(mean, share, s=12 + 90 * count / count.max(), color=COLORS[i], alpha=0.85, zorder=3,
                     label="bin, area by slices")  # fmt: skip
        _title(axes, i, positive, f"calibration error {scores.labels[i].calibration_error.value:.4f}")
    _alike(panels, "mean probability in bin", "share with it")
    return _with_legend(figure, panels)


@mpl.rc_context(STYLE)
def histograms(p: F64, labels: npt.NDArray[np.integer[Any]]) -> str | None:
    """How many slices with and without a label got which probability, a panel a label."""
    drawn = _both_classes(labels)
    if not drawn:
        return None
    edges = np.linspace(0, 1, _BIN_COLUMNS + 1)
    top = 2 * len(p)
    decades = [10**k for k in range(len(str(top)))]
    figure, panels = grid(len(drawn), left=0.45 + 0.08 * len(f"{decades[-1]:,}"), top=0.3, gap=(0.35, 0.42))
    for i, axes in zip(drawn, panels, strict=True):
        for label, color, name in ((0, COLORS[5], "without"), (1, COLORS[1], "with")):
            counts, _ = np.histogram(p[labels[:, i] == label, i], edges)
            axes.stairs(counts, edges, baseline=0.1, fill=True, color=color, alpha=0.55, label=name)
        axes.axvline(DECISION, color=_GREY, linestyle=":", linewidth=1, label="decision")
        axes.set_yscale("log")
        axes.minorticks_off()
        _title(axes, i, labels[labels[:, i] != UNKNOWN, i] == 1)
    _alike(panels, "probability", "slices (logarithmic)", (0.7, top), decades)
    return _with_legend(figure, panels)


def grid(
    number: int,
    size: tuple[float, float] = (3.3, 2.45),
    *,
    gap: tuple[float, float] = (0.35, 0.62),
    left: float = 0.62,
    right: float = 0.12,
    top: float = 0.47,
    bottom: float = 0.85,
) -> tuple[Figure, list[Axes]]:
    """A figure of `number` panels, up to three in a row. All lengths are in inches.

    Args:
        number: at least 1.
        size: of a panel, without what stands around it.
        gap: between two panels of a row, and between rows.
        left: room for the numbers of the leftmost panels and for the name of their axis.
        right: margin.
        top: room for titles.
        bottom: room for the numbers of the lowest panels, the name of their axis, and a legend.
    """
    columns = min(number, _COLUMNS)
    rows = math.ceil(number / columns)
    steps = size[0] + gap[0], size[1] + gap[1]
    width, height = left + columns * steps[0] - gap[0] + right, top + rows * steps[1] - gap[1] + bottom
    figure = Figure(figsize=(width, height))
    panels = []
    for i in range(number):
        x, y = left + i % columns * steps[0], height - top - size[1] - i // columns * steps[1]
        axes = figure.add_axes((x / width, y / height, size[0] / width, size[1] / height))
        axes.xaxis.set_label_coords(0.5, -0.28 / size[1])  # else it is looked for behind the longest number
        axes.yaxis.set_label_coords((0.2 - left) / size[0], 0.5)
        panels.append(axes)
    return figure, panels


def _alike(panels: Sequence[Axes], x: str, y: str, ylim: tuple[float, float] = (-0.01, 1.03),
           heights: Sequence[float] = _TICKS) -> None:  # fmt: skip
    """Panels that share both axes, the first from 0 to 1: numbers stand at the left and the lower edge only.

    A tick is five artists, most of a figure's cost, so the lines of the grid are one collection a direction.
    """
    xlim = (-0.01, 1.03)
    for i, axes in enumerate(panels):
        axes.grid(visible=False)
        axes.vlines(_TICKS, *ylim, color=_GRID, linewidth=0.6, zorder=0.5)
        axes.hlines(heights, *xlim, color=_GRID, linewidth=0.6, zorder=0.5)
        lowest, leftmost = i + _COLUMNS >= len(panels), i % _COLUMNS == 0
        axes.set_xticks(_TICKS if lowest else [])
        axes.set_yticks(heights if leftmost else [], [f"{n:,}" for n in heights] if leftmost else None)
        axes.set(xlim=xlim, ylim=ylim, xlabel=x if lowest else "", ylabel=y if leftmost else "")


def svg_uri(figure: Figure) -> str:
    """The figure as a data URI; as an image of its own, its element names cannot clash with another plot's."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _both_classes(labels: npt.NDArray[np.integer[Any]]) -> list[int]:
    """Columns of the labels of which both classes occur."""
    return [i for i in range(len(LABELS)) if (labels[:, i] == 0).any() and (labels[:, i] == 1).any()]


def _resampled(groups: npt.NDArray[Any]) -> tuple[I64, F64]:
    """Each slice's group as a number, and how often each group is drawn in each resample."""
    group = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    return group, resamples(int(group.max()) + 1, _BAND_REPLICATES, 0)


def _title(axes: Axes, i: int, positive: Bool, text: str = "") -> None:
    axes.set_title(f"{LABELS[i]}: {int(positive.sum())} of {len(positive)}" + (f"\n{text}" if text else ""))


def _with_legend(figure: Figure, panels: Sequence[Axes]) -> str:
    """The figure with one legend below all panels, which mean the same."""
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncols=len(names))
    return svg_uri(figure)
