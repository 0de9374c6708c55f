"""Better or worse is said only where patients and positives are enough for it."""

from __future__ import annotations

import numpy as np
import pytest

from hemodist.metrics.probabilities import probabilities
from hemodist.metrics.scores import score
from hemodist.reports.verdict import at_specificities, verdict


def scores_of(strength, *, patients=40, slices=800, positive=0.3):
    """Of a network whose answers are the better the greater `strength` is; below 0 they are wrong."""
    rng = np.random.default_rng(1)
    groups = np.arange(slices) % patients
    labels = (rng.random((slices, 6)) < positive).astype(np.int8)
    labels[:, 0] = labels[:, 1:].max(axis=1)
    logits = strength * (2 * labels - 1) - 0.5 + rng.normal(size=labels.shape) * 0.1
    prevalence = np.clip(labels.mean(axis=0), 0.01, 0.99)
    return score(probabilities(logits), labels, groups, train_prevalence=prevalence, bootstrap=200)


@pytest.mark.parametrize(
    ("strength", "said"),
    [(3, "Better than the trivial answer"), (-3, "Worse than the trivial answer")],
)
def test_a_clear_difference_over_many_patients_is_said(strength, said):
    scores = scores_of(strength)
    assert verdict(scores)[0] == said
    assert "over 40 patients" in verdict(scores)[1]
    assert f"{scores.labels[0].positive} of 800 slices show hemorrhage, of 40 patients" in verdict(scores)[1]
    assert "too narrow" not in verdict(scores)[1]


def test_a_difference_within_the_noise_cannot_be_told():
    constant = np.array([0.8, 0.3, 0.3, 0.3, 0.3, 0.3])
    rng = np.random.default_rng(2)
    labels = (rng.random((400, 6)) < constant).astype(np.int8)
    near = np.clip(constant + rng.normal(size=labels.shape) * 0.02, 0.01, 0.99)
    scores = score(near, labels, np.arange(400) % 40, train_prevalence=constant, bootstrap=200)
    assert scores.minus_constant.low < 0 < scores.minus_constant.high
    assert verdict(scores)[0] == "These slices cannot tell"


def test_five_patients_cannot_tell_however_good_the_network_is():
    scores = scores_of(3, patients=5)
    assert scores.minus_constant.high < 0
    assert verdict(scores)[0] == "These slices cannot tell"
    assert "Patients are too few for any test" in verdict(scores)[1]
    few = scores_of(3, patients=12)
    assert verdict(few)[0] == "Better than the trivial answer"
    assert "fewer than 30 patients is too narrow" in verdict(few)[1]


def test_slices_that_are_all_alike_cannot_tell():
    assert verdict(scores_of(3, positive=0))[0] == "These slices cannot tell"


def test_the_difference_is_that_of_the_two_scores_and_pairs_them():
    scores = scores_of(0.3)
    apart = scores.weighted_log_loss.value - scores.baselines.constant_prevalence
    assert scores.minus_constant.value == pytest.approx(apart, abs=1e-12)
    width = scores.minus_constant.high - scores.minus_constant.low
    assert 0 < width < 2 * (scores.weighted_log_loss.high - scores.weighted_log_loss.low)
    assert 0 < scores.minus_constant.p <= 1


def test_sensitivities_stand_with_their_specificity_and_interval():
    texts = at_specificities(scores_of(0.5))
    assert ["90 % specificity" in texts[0], "95 % specificity" in texts[1]] == [True, True]
    assert all("95 % interval over patients" in text for text in texts)
