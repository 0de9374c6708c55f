"""What a run's report says above its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def report_notes(history: Sequence[Mapping[str, Any]], best: int, step: int, total: int, *, stopped: bool) -> list[str]:
    """Sentences on which checkpoint is scored, what its raw weights would score, and whether the run ended early.

    Args:
        history: a row an epoch; with raw scores where the run has a moving average.
        best: step of the checkpoint that is scored.
        step: optimizer updates made.
        total: optimizer updates planned.
        stopped: whether early stopping has ended the run.
    """
    notes = [f"Scored: the checkpoint of step {best}, the best of this run on this very validation split."]
    row = next((row for row in history if row["step"] == best), {})
    if "raw_auc_any" in row:
        notes.append(
            f"These are the averaged weights: weighted log loss {row['weighted_log_loss']:.4f}, AUC of any "
            f"{row['auc_any']:.4f}. The raw weights of the same step: {row['raw_weighted_log_loss']:.4f}, "
            f"{row['raw_auc_any']:.4f}."
        )
    if stopped:
        notes.append(f"Stopped early, at step {step} of {total}.")
    return notes
