"""A study's findings as a person reads them: a table in the terminal, Markdown to paste, and one HTML file to mail."""

from __future__ import annotations

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from hemodist.metrics.paired import ACCURACY, AUC, LOG_LOSS
from hemodist.reports.as_text import as_float, flat, interval_text, number
from hemodist.reports.epoch_table import HISTORY_COLUMNS, format_history_row
from hemodist.reports.page import template
from hemodist.study import charts
from hemodist.study.as_text import difference_text, duration
from hemodist.study.findings import Findings
from hemodist.study.published import PUBLISHED, PUBLISHED_MAJORITY, PUBLISHED_NONE
from hemodist.study.system import System

_VERDICTS = {1: "better", -1: "worse", 0: "cannot tell"}

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
    for column, name in enumerate(_SHORT.values()):
        shown_table.add_column(name, justify="right" if column else "left", no_wrap=True)
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
        cells = (ours_name, "-", "-", "-", number(accuracy), number(1 - accuracy), "-")
        listed.append((name, f"{figure}", measure, *cells))
    return listed


def page(found: Findings) -> str:
    """The report as one self-contained HTML page: inline styles, plots as SVG in data URIs."""
    names = [system.name for system in found.systems]
    return template("hemodist.study", "report.html.j2").render(
        title="The study, done again",
        synthetic=found.synthetic,
        found=found,
        header=HEADER,
        rows=rows(found),
        published_header=PUBLISHED_HEADER,
        published=published_rows(found),
        curves=charts.learning_curves(found),
        forest=charts.intervals(found),
        cost=charts.score_and_time(found),
        to_best=[(one.first, one.second, difference_text(one), _VERDICTS[one.verdict]) for one in found.to_best],
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
        replicates=found.systems[0].resampled.replicates[LOG_LOSS].shape[1],
    )


def _row(system: System) -> tuple[str, ...]:
    loss, auc, right = (system.estimate(score) for score in (LOG_LOSS, AUC, ACCURACY))
    low, high = system.spread(LOG_LOSS)
    return (
        system.name,
        f"{system.parameters:,}",
        str(len(system.seeds)) if system.seeds else "-",
        number(loss.value),
        interval_text(loss),
        f"{number(low)} to {number(high)}" if len(system.seeds) > 1 else "-",
        number(auc.value),
        interval_text(auc),
        number(right.value),
        number(1 - right.value),
        duration(system.time),
        f"{np.mean(system.images_per_s):.1f}" if system.images_per_s else "-",
    )


def _study_cells(system: System) -> tuple[str, ...]:
    """Means over the seeds, of the epoch whose checkpoint was scored."""
    scored = system.scored_rows()
    epochs = ", ".join(map(str, sorted({row["epoch"] for row in scored})))
    train, valid, right = (
        float(np.mean([as_float(row.get(k)) for row in scored])) for k in ("train_loss", "valid_loss", ACCURACY)
    )
    return system.name, epochs, *map(number, (train, valid, right, 1 - right)), duration(system.time)


def _pair(found: Findings, first: str, second: str) -> tuple[str, int]:
    """A cell of the matrix: row minus column, and whose side the verdict is on."""
    if (first, second) in found.pairs:
        one = found.pairs[first, second]
        return f"{one.value:+.3f}", one.verdict
    if (second, first) in found.pairs:
        one = found.pairs[second, first]
        return f"{-one.value:+.3f}", -one.verdict
    return "", 0


def _markdown_table(header: tuple[str, ...], lines: list[tuple[str, ...]]) -> list[str]:
    return [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *(f"| {' | '.join(line)} |" for line in lines)]
