"""The report: one HTML file that can be mailed, read and printed without a network.

Styles stand in the file itself, plots are SVG and pictures JPEG in data URIs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
import numpy as np

from hemodist.metrics.calibration import CALIBRATION_BINS
from hemodist.metrics.log_loss import EPSILON
from hemodist.metrics.ranking import operating_points_of_any
from hemodist.reports import charts
from hemodist.reports.as_text import flat, interval_text, number, percent, threshold
from hemodist.reports.contents import NO_HEAT_MAPS, Description, HeatMapResults, ScoredSplit
from hemodist.reports.epoch_table import HISTORY_COLUMNS, epoch_cells
from hemodist.reports.score_tables import comparisons, pointing_text, pooled_rows
from hemodist.reports.verdict import FOR_RESEARCH, SYNTHETIC, at_specificities, verdict


def template(package: str, name: str) -> jinja2.Template:
    """A page of a room, on `base.html.j2`: text becomes no tags, and a name that is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(one, ".") for one in (package, "hemodist.reports")]),
        autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {"FOR_RESEARCH": FOR_RESEARCH, "SYNTHETIC": SYNTHETIC}
    environment.filters |= {"number": number, "interval": interval_text, "percent": percent, "threshold": threshold}
    return environment.get_template(name)


def report(
    description: Description,
    split: ScoredSplit,
    heat_maps: HeatMapResults = NO_HEAT_MAPS,
    *,
    synthetic: bool,
) -> str:
    """The report of a split as HTML.

    Args:
        description: What was scored.
        split: The scores, and the arrays that the curves are drawn from.
        heat_maps: Pictures of the worst slices, and the pointing game.
        synthetic: Whether the data are phantoms; the report then says so at its top.
    """
    p, labels, groups = np.asarray(split.probability, dtype=np.float64), split.labels, split.groups
    scores, history, facts = split.scores, description.history, description.facts
    tables = {name: rows for name, rows in facts.items() if _is_table(rows)}
    return template("hemodist.reports", "page.html.j2").render(
        title=description.title,
        synthetic=synthetic,
        scores=scores,
        verdict=verdict(scores),
        sensitivities=at_specificities(scores),
        comparisons=comparisons(scores, split.extra_baselines),
        notes=description.notes,
        learning=charts.learning_curves(history, scores) if history else None,
        ranking=charts.ranking_curves(p, labels, groups, scores),
        one_class=[s for s in scores.labels if not 0 < s.positive < s.known],
        calibration=charts.calibration(p, labels, groups, scores),
        histograms=charts.histograms(p, labels),
        points=operating_points_of_any(p, labels),
        pooled=pooled_rows(split.pooled),
        missed=[figure for figure in heat_maps.worst if figure.kind == "missed"],
        alarms=[figure for figure in heat_maps.worst if figure.kind == "alarm"],
        pointing=pointing_text(heat_maps.pointing) if heat_maps.pointing else None,
        history_columns=(*HISTORY_COLUMNS, "lr", "images/s"),
        history=[(*epoch_cells(row), number(row.get("lr"), 2), number(row.get("images_per_s"), 1)) for row in history],
        dataset=list(flat({name: value for name, value in facts.items() if name not in tables})),
        tables=[_table(name, rows) for name, rows in tables.items()],
        config=list(flat(description.config)),
        epsilon=EPSILON,
        bins=CALIBRATION_BINS,
    )


def _is_table(facts: Any) -> bool:
    return isinstance(facts, Mapping) and bool(facts) and all(isinstance(row, Mapping) for row in facts.values())


def _table(name: str, facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Name, columns and rows of a mapping of mappings."""
    columns = list(dict.fromkeys(column for row in facts.values() for column in row))
    rows = [[title, *(str(row.get(column, "-")) for column in columns)] for title, row in facts.items()]
    return {"name": name, "columns": columns, "rows": rows}
