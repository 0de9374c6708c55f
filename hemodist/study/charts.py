"""The plots of a study's report, each as a data URI of an SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from hemodist.metrics.paired import AUC, LOG_LOSS
from hemodist.reports.charts import STYLE, grid, svg_uri
from hemodist.study.findings import Findings
from hemodist.study.system import System

_COLORS = ("#1f78b4", "#d95f02", "#1b9e77", "#e7298a", "#7570b3", "#a6761d", "#111111", "#66a61e", "#c51b1b", "#3fb8d0")
_MARKS = "osD^vPX<>*"
_FLOOR_COLOR = "#777777"
_FLOOR_STYLES = ("--", ":", "-.", (0, (1, 3)))
_PANELS = ((LOG_LOSS, "weighted log loss (nats)"), (AUC, "AUC of any"))
_WIDTH = 12.5  # inches


@mpl.rc_context(STYLE)
def learning_curves(found: Findings) -> str:
    """Weighted log loss and AUC of `any` by epoch, all systems in one plot; the band is from seed to seed."""
    names = _room_for_names(found) + 0.6
    figure, panels = grid(
        2, ((_WIDTH - names - 1.75) / 2, 3.9), gap=(0.9, 0), left=0.85, right=names, top=0.15, bottom=0.5
    )
    for axes, (score, name) in zip(panels, _PANELS, strict=True):
        for system, color, mark in zip(found.networks, cycle(_COLORS), cycle(_MARKS), strict=False):
            values = _by_epoch(system, score)
            epochs = np.arange(1, values.shape[1] + 1)
            axes.plot(epochs, _mean(values), f"{mark}-", color=color, markersize=4, linewidth=1.6, label=system.name)
            if len(values) > 1:
                axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=color, alpha=0.12, linewidth=0)
        for system, style in zip((s for s in found.systems if s.kind != "network"), cycle(_FLOOR_STYLES), strict=False):
            value = system.estimate(score).value
            if math.isfinite(value):
                axes.axhline(value, color=_FLOOR_COLOR, linestyle=style, linewidth=1.2, label=system.name)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if score == LOG_LOSS:
            axes.set_yscale("log")
            _plain_numbers(axes.yaxis, (1, 1.5, 2, 3, 5, 7))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="center right", fontsize=9)
    return svg_uri(figure)


@mpl.rc_context(STYLE)
def intervals(found: Findings) -> str:
    """Every system's score with its interval over patients, and a dot a seed."""
    systems = found.systems[::-1]
    left = _room_for_names(found) + 0.2
    size = ((_WIDTH - left - 0.5) / 2, 0.36 * len(systems) + 0.5)
    figure, panels = grid(2, size, gap=(0.35, 0), left=left, right=0.15, top=0.1, bottom=0.5)
    for axes, (score, name) in zip(panels, _PANELS, strict=True):
        for place, system in enumerate(systems):
            one, color = system.estimate(score), _color(found, system)
            if math.isfinite(one.low):
                axes.plot([one.low, one.high], [place, place], color=color, linewidth=2.2, solid_capstyle="butt")
            axes.plot([one.value], [place], "s", color=color, markersize=6)
            if len(system.seeds) > 1:
                dots = system.resampled.value[score]
                axes.plot(dots, np.full(len(dots), place + 0.22), ".", color=color, markersize=5, alpha=0.8)
        axes.set_xlabel(name)
        axes.set_yticks(range(len(systems)), [system.name if axes is panels[0] else "" for system in systems])
        axes.set_ylim(-0.6, len(systems) - 0.4)
    return svg_uri(figure)


@mpl.rc_context(STYLE)
def score_and_time(found: Findings) -> str:
    """Weighted log loss against training time, with intervals over patients."""
    names = _room_for_names(found) + 0.6
    figure, (axes,) = grid(1, (_WIDTH - names - 0.85, 3.75), left=0.85, right=names, top=0.15, bottom=0.5)
    for system, mark in zip((s for s in found.systems if s.seconds), cycle(_MARKS), strict=False):
        one = system.estimate(LOG_LOSS)
        ends = np.abs([[one.low - one.value], [one.high - one.value]]) if math.isfinite(one.low) else None
        axes.errorbar(
            [system.time], [one.value], ends, fmt=mark, color=_color(found, system), markersize=8, capsize=3,
            linewidth=1.4, label=system.name,
        )  # fmt: skip
    constant = found.systems[0]
    axes.axhline(
        constant.estimate(LOG_LOSS).value, color=_FLOOR_COLOR, linestyle="--", linewidth=1.2, label=constant.name
    )
    axes.set(xlabel="time to train and validate, or to measure and fit (seconds, logarithmic)", ylabel=_PANELS[0][1])
    axes.set_xscale("log")
    axes.margins(x=0.08)
    _plain_numbers(axes.xaxis, (1, 2, 5))
    figure.legend(loc="center right", fontsize=9)
    return svg_uri(figure)


def _room_for_names(found: Findings) -> float:
    """Inches that the longest name of a system takes."""
    return 0.09 * max(len(system.name) for system in found.systems)


def _by_epoch(system: System, score: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[seeds, epochs]; nan where an epoch is not there or the score is not defined."""
    longest = max(len(history) for history in system.histories)
    values = np.full((len(system.histories), longest), np.nan)
    for seed, history in enumerate(system.histories):
        values[seed, : len(history)] = [math.nan if row[score] is None else row[score] for row in history]
    return values


def _mean(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The mean over the seeds that have got so far."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _color(found: Findings, system: System) -> str:
    return _COLORS[found.networks.index(system) % len(_COLORS)] if system.kind == "network" else _FLOOR_COLOR


def _plain_numbers(axis: Axis, each_decade: Sequence[float]) -> None:
    """Ticks on a logarithmic axis at round numbers, several a decade, and no powers of ten."""
    axis.set_major_locator(LogLocator(subs=each_decade))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
