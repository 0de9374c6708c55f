"""A study's findings as a person reads them: a table in the terminal, Markdown to paste, and one HTML file to mail."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from rich.box import SIMPLE
from rich.table import Table

from hemodist.metrics.bootstrap import Estimate
from hemodist.metrics.paired import ACCURACY, AUC, LOG_LOSS
from hemodist.reports.charts import flat
from hemodist.reports.epoch_table import HISTORY_COLUMNS, format_history_row
from hemodist.study.findings import PUBLISHED, PUBLISHED_MAJORITY, PUBLISHED_NONE, Findings, System, clock, shown

_TEMPLATE = "report.html.j2"
_COLORS = ("#1f78b4", "#d95f02", "#1b9e77", "#e7298a", "#7570b3", "#a6761d", "#111111", "#66a61e", "#c51b1b", "#3fb8d0")
_MARKS = "osD^vPX<>*"
_FLOOR_COLOR = "#777777"
_FLOOR_STYLES = ("--", ":", "-.", (0, (1, 3)))

HEADER = (
    "system", "parameters", "seeds", "weighted log loss", "95 % over patients", "over seeds", "AUC of any",
    "95 % over patients", "accuracy_multi", "error rate", "time", "images/s",
)  # fmt: skip

_SHORT = {
    0: "system", 1: "parameters", 3: "weighted\nlog loss", 4: "95 % over\npatients", 5: "over\nseeds",
    6: "AUC\nof any", 8: "accuracy\n_multi", 10: "time",
}  # fmt: skip
"""Columns of `HEADER` that fit into 120 columns of a terminal."""


def rows(found: Findings) -> list[tuple[str, ...]]:
    """A row of text a system, under `HEADER`: the systems without a network first, then the networks."""
    return [_row(system) for system in found.systems]


def table(found: Findings) -> Table:
    """The systems for the terminal."""
    title = f"{found.slices:,} slices of {found.groups} patients" + (", synthetic" if found.synthetic else "")
    shown_table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, padding=(0, 1))
    for number, name in enumerate(_SHORT.values()):
        shown_table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows(found):
        shown_table.add_row(*(row[i] for i in _SHORT))
    return shown_table


def markdown(found: Findings) -> str:
    """The table, the published figures and the answers, in Markdown."""
    lines = _markdown_table(HEADER, rows(found))
    lines += ["", *_markdown_table(PUBLISHED_HEADER, published_rows(found)), ""]
    lines += [f"- **{question.asked}** {question.answer}" for question in found.questions]
    return "\n".join(lines) + "\n"


PUBLISHED_HEADER = (
    "published system", "published", "measure", "ours", "epoch", "train_loss", "valid_loss", "accuracy_multi",
    "error rate", "time",
)  # fmt: skip


def published_rows(found: Findings) -> list[tuple[str, ...]]:
    """The study's figures as they were, and in the study's own columns what ours gives; then the trivial answers."""
    by_name = {system.name: system for system in found.networks}
    listed = []
    for one in PUBLISHED:
        ours = by_name.get(one.recipe)
        listed.append((one.system, one.figure, one.measure, *(_study_cells(ours) if ours else ("-",) * 7)))
    trivial = (
        ("always the majority, binary task", PUBLISHED_MAJORITY, "accuracy", "majority"),
        ("predict none, its positives", PUBLISHED_NONE, "multi-label accuracy", "predict none"),
    )
    for name, figure, measure, ours_name in trivial:
        accuracy = found.baselines[ours_name]
        cells = (ours_name, "-", "-", "-", _number(accuracy), _number(1 - accuracy), "-")
        listed.append((name, f"{figure}", measure, *cells))
    return listed


def page(found: Findings) -> str:
    """The report as one self-contained HTML page: inline styles, plots as SVG in data URIs."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hemodist.study", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    names = [system.name for system in found.systems]
    return environment.get_template(_TEMPLATE).render(
        found=found,
        header=HEADER,
        rows=rows(found),
        published_header=PUBLISHED_HEADER,
        published=published_rows(found),
        curves=_curves(found),
        forest=_forest(found),
        cost=_cost(found),
        to_best=[(one.first, one.second, shown(one), _verdict(one.verdict)) for one in found.to_best],
        names=names,
        matrix=[[_pair(found, first, second) for second in names] for first in names],
        history_columns=HISTORY_COLUMNS,
        histories=[
            (f"{system.name}, seed {seed}", [format_history_row(row).split() for row in history])
            for system in found.networks
            for seed, history in zip(system.seeds, system.histories, strict=True)
        ],
        facts=list(flat(found.facts)),
        config={name: list(flat(values)) for name, values in found.config.items()},
        replicates=found.systems[0].answers.replicates[LOG_LOSS].shape[1],
    )


def _row(system: System) -> tuple[str, ...]:
    loss, auc, right = (system.estimate(score) for score in (LOG_LOSS, AUC, ACCURACY))
    low, high = system.spread(LOG_LOSS)
    return (
        system.name,
        f"{system.parameters:,}",
        str(len(system.seeds)) if system.seeds else "-",
        _number(loss.value),
        _interval(loss),
        f"{_number(low)} to {_number(high)}" if len(system.seeds) > 1 else "-",
        _number(auc.value),
        _interval(auc),
        _number(right.value),
        _number(1 - right.value),
        clock(system.time),
        f"{np.mean(system.images_per_s):.1f}" if system.images_per_s else "-",
    )


def _study_cells(system: System) -> tuple[str, ...]:
    """Means over the seeds, of the epoch whose checkpoint was scored."""
    scored = system.scored_rows()
    epochs = sorted({row["epoch"] for row in scored})
    train, valid, right = (float(np.mean([row[k] for row in scored])) for k in ("train_loss", "valid_loss", ACCURACY))
    listed = ", ".join(map(str, epochs))
    return system.name, listed, _number(train), _number(valid), _number(right), _number(1 - right), clock(system.time)


def _curves(found: Findings) -> str:
    """Weighted log loss and AUC of `any` by epoch, all systems in one plot; the band is from seed to seed."""
    figure = Figure(figsize=(12.5, 4.6), layout="constrained")
    for axes, score, name in zip(
        figure.subplots(1, 2), (LOG_LOSS, AUC), ("weighted log loss (nats)", "AUC of any"), strict=True
    ):
        for system, color, mark in zip(found.networks, _cycle(_COLORS), _cycle(_MARKS), strict=False):
            values = _by_epoch(system, score)
            epochs = np.arange(1, values.shape[1] + 1)
            axes.plot(epochs, _mean(values), f"{mark}-", color=color, markersize=4, linewidth=1.6, label=system.name)
            if len(values) > 1:
                axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=color, alpha=0.12, linewidth=0)
        for system, style in zip(
            (s for s in found.systems if s.kind != "network"), _cycle(_FLOOR_STYLES), strict=False
        ):
            value = system.estimate(score).value
            if math.isfinite(value):
                axes.axhline(value, color=_FLOOR_COLOR, linestyle=style, linewidth=1.2, label=system.name)
        _dress(axes, "epoch", name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if score == LOG_LOSS:
            axes.set_yscale("log")
            _plain_numbers(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    return _svg(figure)


def _forest(found: Findings) -> str:
    """Every system's score with its interval over patients, and a dot a seed."""
    systems = found.systems[::-1]
    figure = Figure(figsize=(12.5, 1.2 + 0.36 * len(systems)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, score, name in zip(panels, (LOG_LOSS, AUC), ("weighted log loss (nats)", "AUC of any"), strict=True):
        for place, system in enumerate(systems):
            one, color = system.estimate(score), _color(found, system)
            if math.isfinite(one.low):
                axes.plot([one.low, one.high], [place, place], color=color, linewidth=2.2, solid_capstyle="butt")
            axes.plot([one.value], [place], "s", color=color, markersize=6)
            if len(system.seeds) > 1:
                dots = system.answers.value[score]
                axes.plot(dots, np.full(len(dots), place + 0.22), ".", color=color, markersize=5, alpha=0.8)
        _dress(axes, name, "")
        axes.set_yticks(range(len(systems)), [system.name for system in systems])
        axes.set_ylim(-0.6, len(systems) - 0.4)
    return _svg(figure)


def _cost(found: Findings) -> str:
    """Weighted log loss against training time, with intervals over patients."""
    figure = Figure(figsize=(12.5, 4.4), layout="constrained")
    axes = figure.subplots()
    for system, mark in zip((s for s in found.systems if s.seconds), _cycle(_MARKS), strict=False):
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
    _dress(axes, "time to train and validate, or to measure and fit (seconds, logarithmic)", "weighted log loss (nats)")
    axes.set_xscale("log")
    axes.margins(x=0.08)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return _svg(figure)


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


def _cycle(values: Any) -> Iterator[Any]:
    while True:
        yield from values


def _plain_numbers(axes: Axes) -> None:
    """Ticks on a logarithmic axis at round numbers, several a decade, and no powers of ten."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _dress(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_axisbelow(True)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "hemodist"}):  # the same findings give the same bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _pair(found: Findings, first: str, second: str) -> tuple[str, int]:
    """A cell of the matrix: row minus column, and whose side the verdict is on."""
    if (first, second) in found.pairs:
        one = found.pairs[first, second]
        return f"{one.value:+.3f}", one.verdict
    if (second, first) in found.pairs:
        one = found.pairs[second, first]
        return f"{-one.value:+.3f}", -one.verdict
    return "", 0


def _verdict(verdict: int) -> str:
    return {1: "better", -1: "worse", 0: "cannot tell"}[verdict]


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def _interval(one: Estimate) -> str:
    return f"{_number(one.low)} to {_number(one.high)}" if math.isfinite(one.low) else "-"


def _markdown_table(header: tuple[str, ...], lines: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *(f"| {' | '.join(line)} |" for line in lines)]
