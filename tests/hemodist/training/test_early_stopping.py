from __future__ import annotations

import math

import pytest

from hemodist.config.training import StopConfig
from hemodist.training.early_stopping import score_as_loss, should_stop


def history_of(values, name="weighted_log_loss"):
    return [{name: value} for value in values]


@pytest.mark.parametrize(
    ("values", "patience", "expected"),
    [
        ([0.5, 0.4, 0.3], 2, False),
        ([0.5, 0.4, 0.41, 0.42], 2, True),
        ([0.5, 0.4, 0.41, 0.39], 2, False),
        ([0.5, 0.4, 0.4], 1, True),  # as good is not better
        ([0.4, 0.5], 2, False),
        ([0.5, math.nan, math.nan], 2, True),
        ([0.4, 0.5, 0.6], 0, False),
    ],
)
def test_a_run_ends_after_so_many_epochs_without_a_better_score(values, patience, expected):
    assert should_stop(history_of(values), StopConfig(patience=patience)) is expected


def test_more_is_better_for_scores_that_are_no_loss():
    config = StopConfig(score="auc_any", patience=1)
    assert not should_stop(history_of([0.7, 0.8], "auc_any"), config)
    assert should_stop(history_of([0.8, 0.7], "auc_any"), config)
    assert score_as_loss({"auc_any": 0.9}, "auc_any") < score_as_loss({"auc_any": 0.8}, "auc_any")
