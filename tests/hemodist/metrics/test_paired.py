from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hemodist.dataset.labels import UNKNOWN
from hemodist.metrics import paired
from hemodist.metrics.bootstrap import resamples
from hemodist.metrics.log_loss import weighted_log_loss
from hemodist.metrics.probabilities import probabilities
from hemodist.metrics.scores import score


def a_split(n=400, patients=25, seeds=2, unknown=0.05):
    rng = np.random.default_rng(0)
    groups = np.unique(rng.integers(patients, size=n), return_inverse=True)[1].astype(np.int64)
    labels = (rng.random((n, 6)) < 0.3).astype(np.int8)
    labels[rng.random((n, 6)) < unknown] = UNKNOWN
    probability = probabilities(
        np.round(2.0 * (labels == 1) - 1 + rng.normal(size=(seeds, n, 6)), 1)
    )  # rounded, so there are ties
    return probability, labels, groups


def the_scores(name, probability, labels, groups, replicates=200):
    return paired.resample_scores(name, probability, labels, groups, resamples(int(groups.max()) + 1, replicates, 0))


def test_scores_and_intervals_are_those_of_the_metrics():
    probability, labels, groups = a_split(seeds=1)
    ours = the_scores("a", probability, labels, groups)
    scores = score(probability[0], labels, groups, train_prevalence=np.full(6, 0.3), bootstrap=200)
    for name, expected in (
        (paired.LOG_LOSS, scores.weighted_log_loss),
        (paired.AUC, scores.auc_any),
        (paired.ACCURACY, scores.accuracy_multi),
    ):
        assert vars(ours.estimate(name)) == pytest.approx(vars(expected), rel=1e-12)


def test_a_replicate_is_the_score_of_the_patients_drawn():
    probability, labels, groups = a_split(seeds=2)
    counts = resamples(int(groups.max()) + 1, 20, 3)
    ours = paired.resample_scores("a", probability, labels, groups, counts)
    for replicate in (0, 7):
        rows = np.repeat(np.arange(len(labels)), counts[replicate][groups].astype(int))
        known = rows[labels[rows, 0] != UNKNOWN]
        for seed in (0, 1):
            assert ours.replicates[paired.AUC][seed, replicate] == pytest.approx(
                roc_auc_score(labels[known, 0], probability[seed][known, 0])
            )
            assert ours.replicates[paired.LOG_LOSS][seed, replicate] == pytest.approx(
                weighted_log_loss(probability[seed][rows], labels[rows])
            )


def test_the_parts_of_the_groups_sum_to_the_score():
    probability, labels, groups = a_split()
    ours = the_scores("a", probability, labels, groups)
    np.testing.assert_allclose(ours.losses.sum(axis=1), ours.value[paired.LOG_LOSS], rtol=1e-12)


def test_equal_systems_cannot_be_told_apart():
    probability, labels, groups = a_split()
    ours = the_scores("a", probability[:1], labels, groups)
    same = paired.difference(ours, ours, paired.LOG_LOSS)
    assert (same.value, same.low, same.high, same.p, same.verdict) == (0, 0, 0, 1, 0)


@pytest.mark.parametrize("score", paired.SCORES)
def test_a_clearly_better_system_is_found_whichever_side_it_is_on(score):
    probability, labels, groups = a_split()
    blurred = 0.5 + 0.02 * (probability - 0.5) + 0.1 * (np.random.default_rng(1).random(probability.shape) - 0.5)
    good, bad = (the_scores(n, p, labels, groups) for n, p in (("good", probability), ("bad", blurred)))
    assert paired.difference(good, bad, score).verdict == 1
    assert paired.difference(bad, good, score).verdict == -1
    forward, backward = paired.difference(good, bad, score), paired.difference(bad, good, score)
    assert forward.value == -backward.value


def test_what_both_share_cancels():
    """A hard patient makes both scores uncertain, but not their difference."""
    probability, labels, groups = a_split(seeds=1)
    probability = np.where((groups == 0)[:, None], 0.999 * (labels != 1) + 0.0005, probability)
    worse = np.where((groups == 0)[:, None], probability, probability * 0.97 + 0.01)
    a, b = the_scores("a", probability, labels, groups), the_scores("b", worse, labels, groups)
    own = a.estimate(paired.LOG_LOSS)
    between = paired.difference(a, b, paired.LOG_LOSS)
    assert between.high - between.low < 0.2 * (own.high - own.low)


def test_seeds_that_disagree_widen_the_interval_of_a_difference():
    probability, labels, groups = a_split()
    spread = np.stack([probability[0], 0.5 + 0.3 * (probability[0] - 0.5)])
    mean_like = np.stack([probability[0]] * 2)
    base = the_scores("base", probability[1:], labels, groups)
    wide = paired.difference(the_scores("wide", spread, labels, groups), base, paired.LOG_LOSS)
    narrow = paired.difference(the_scores("narrow", mean_like, labels, groups), base, paired.LOG_LOSS)
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)


def test_five_patients_can_never_tell():
    probability, labels, groups = a_split(patients=5)
    perfect = np.clip((labels == 1) * 1.0, 0.01, 0.99)[None]
    found = paired.difference(
        the_scores("perfect", perfect, labels, groups),
        the_scores("noise", probability, labels, groups),
        paired.LOG_LOSS,
    )
    assert found.high < 0
    assert found.p == 2 / 2**5
    assert found.verdict == 0


@pytest.mark.parametrize("groups", [10, 40])
def test_the_swap_test_rejects_a_true_null_at_its_rate(groups):
    rng = np.random.default_rng(groups)
    p = np.array([paired.swap_test(rng.standard_t(3, groups)) for _ in range(300)])
    assert (p <= 0.05).mean() < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert 0.4 < p.mean() < 0.6


def test_random_swaps_agree_with_all_of_them(monkeypatch):
    differences = np.random.default_rng(3).normal(0.4, 1, 12)
    exact = paired.swap_test(differences)
    monkeypatch.setattr(paired, "_EXACT_GROUPS", 0)
    assert paired.swap_test(differences) == pytest.approx(exact, abs=0.02)


def test_holm_keeps_the_family_wise_error():
    rng = np.random.default_rng(0)
    assert np.mean([min(paired.holm(rng.random(8).tolist())) <= 0.05 for _ in range(2000)]) < 0.065
    assert paired.holm([]) == []


def test_one_class_leaves_auc_undefined_and_no_verdict():
    probability, labels, groups = a_split()
    labels[:, 0] = 0
    a = the_scores("a", probability, labels, groups)
    found = paired.difference(a, a, paired.AUC)
    assert math.isnan(found.value)
    assert found.verdict == 0
    assert math.isnan(a.estimate(paired.AUC).value)


def test_shapes_that_do_not_match_are_refused():
    probability, labels, groups = a_split()
    with pytest.raises(ValueError, match="do not match"):
        the_scores("a", probability[0], labels, groups)
