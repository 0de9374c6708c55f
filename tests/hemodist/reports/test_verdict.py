"""A verdict says no more than its evidence carries."""

from __future__ import annotations

import numpy as np
import pytest

from hemodist.metrics.probabilities import probabilities
from hemodist.metrics.ranking import operating_points, shortest
from hemodist.metrics.scores import Scores, score
from hemodist.reports.score_tables import comparisons
from hemodist.reports.verdict import evidence, sensitivities, verdict


def scored(strength: float, groups: int = 40, positive_groups: int = 20, bootstrap: int = 200) -> Scores:
    """Of a network that is the better the greater `strength` is; 20 slices a group, half positive where any is."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(groups), 20)
    labels = np.zeros((len(group), 6), np.int8)
    labels[(group < positive_groups) & (np.arange(len(group)) % 2 == 0), :3] = 1
    prevalence = np.clip(labels.mean(axis=0), 0.01, 0.99)
    logits = np.log(prevalence / (1 - prevalence)) + strength * (2.0 * labels - 1) + 0.3 * rng.normal(size=labels.shape)
    return score(probabilities(logits), labels, group, train_prevalence=prevalence, bootstrap=bootstrap)


def test_better_is_said_where_the_paired_interval_leaves_zero_out_and_the_numbers_stand_beside_it():
    found = scored(1.0)
    assert verdict(found).startswith("On these slices the network is better than the trivial answer")
    said = evidence(found)
    assert "800 slices of 40 patient groups; any is present on 200 slices of 20 groups" in said
    assert f"{found.over_constant.low:+.4f} to {found.over_constant.high:+.4f}" in said
    assert found.over_constant.high < 0
    assert "too narrow" not in said
    assert "too narrow" in evidence(scored(1.0, groups=29))


def test_worse_is_said_where_it_is_shown():
    assert "is worse than the trivial answer" in verdict(scored(-1.0))


def test_an_interval_that_spans_zero_cannot_tell():
    found = scored(0.02)
    assert found.over_constant.low < 0 < found.over_constant.high
    assert verdict(found).startswith("These slices cannot tell whether")


@pytest.mark.parametrize(("groups", "positive"), [(5, 5), (40, 5), (40, 0)])
def test_on_five_patients_or_five_with_hemorrhage_nothing_is_claimed_however_good_the_network(groups, positive):
    found = scored(3.0, groups, positive)
    assert verdict(found).startswith("These slices cannot tell whether")
    assert {row.better for row in comparisons(found, {"threshold": 0.5})} == {"cannot tell"}


def test_without_an_interval_nothing_is_claimed():
    found = scored(3.0, bootstrap=0)
    assert verdict(found).startswith("These slices cannot tell whether")
    assert evidence(found).endswith("without an interval.")


def test_the_paired_difference_is_the_difference_of_the_scores():
    found = scored(1.0)
    by_score = found.weighted_log_loss.value - found.baselines.constant_prevalence
    assert found.over_constant.value == pytest.approx(by_score, abs=1e-12)


def test_sensitivities_stand_with_their_intervals_and_only_where_they_are_defined():
    one = scored(1.0).labels[0].sensitivity_at_90_specificity
    assert f"{one.value:.4f} (95 % interval {one.low:.4f} to {one.high:.4f}) at 90 % specificity" in sensitivities(
        scored(1)
    )
    assert sensitivities(scored(1.0, positive_groups=0)) == ""


def test_thresholds_are_short_and_call_the_same_slices():
    rng = np.random.default_rng(1)
    positive = rng.random(300) < 0.3
    p = probabilities(positive * 1.5 - 1 + rng.normal(size=300))
    for point in operating_points(p, positive, 0.5)[1:]:
        assert len(repr(point.threshold)) < 8
        assert (p[positive] >= point.threshold).sum() == point.true_positive
        assert (p[~positive] >= point.threshold).sum() == point.false_positive
    assert shortest(0.2, 0.36999998) == 0.36
    assert shortest(-np.inf, 1e-12) == 0.0
