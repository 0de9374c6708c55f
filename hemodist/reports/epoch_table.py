"""The table of epochs, a line each, as the original study printed it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hemodist.reports.as_text import as_float, clock, number

HISTORY_COLUMNS = ("epoch", "train_loss", "valid_loss", "accuracy_multi", "time", "weighted_log_loss", "auc_any")
"""The original study's columns in its order (fastai prints them so), then the competition's score and AUC of `any`."""


def history_header() -> str:
    """Column names for lines of `format_history_row`."""
    return "  ".join(f"{name:>{_width(name)}}" for name in HISTORY_COLUMNS)


def format_history_row(row: Mapping[str, Any]) -> str:
    """One epoch as a line of fixed width, under `history_header`."""
    return "  ".join(f"{cell:>{_width(name)}}" for name, cell in zip(HISTORY_COLUMNS, epoch_cells(row), strict=True))


def epoch_cells(row: Mapping[str, Any]) -> list[str]:
    """One epoch's row of the history as text, a cell for each of `HISTORY_COLUMNS`."""
    numbers = {name: number(row.get(name), 6) for name in HISTORY_COLUMNS}
    return [*({**numbers, "epoch": str(row["epoch"]), "time": clock(as_float(row.get("seconds")))}.values())]


def _width(name: str) -> int:
    return max(len(name), 8)
