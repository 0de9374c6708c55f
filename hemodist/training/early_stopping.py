"""Which epoch is the best so far, and whether the run may end: pure functions of the history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hemodist.config.training import StopConfig


def score_as_loss(row: Mapping[str, Any], score: str) -> float | None:
    """An epoch's chosen score, turned so that less is better; None where it is not finite.

    Args:
        row: of the history.
        score: name of the score.

    >>> score_as_loss({"auc_any": 0.75}, "auc_any")
    0.25
    >>> score_as_loss({"auc_any": float("nan")}, "auc_any") is None
    True
    """
    value = float(row[score])
    if not math.isfinite(value):
        return None
    return value if score == "weighted_log_loss" else 1.0 - value


def should_stop(history: Sequence[Mapping[str, Any]], config: StopConfig) -> bool:
    """True where the last `patience` epochs were none better than the best before them.

    The history is in every checkpoint and the same on every rank, so all ranks decide alike, after a restart too.
    Epochs without a defined score count as none better.
    """
    if not config.patience or len(history) <= config.patience:
        return False
    values = [score_as_loss(row, config.score) for row in history]
    found = [math.inf if value is None else value for value in values]
    return min(found[-config.patience :]) >= min(found[: -config.patience])
