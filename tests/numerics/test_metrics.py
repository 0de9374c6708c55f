"""Every score against scikit-learn, every interval against a simulation whose truth is known."""

from __future__ import annotations

import json
import math
import time
from statistics import NormalDist

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.metrics import bootstrap, ranking
from hemodist.metrics.calibration import calibration_estimate
from hemodist.metrics.log_loss import share_of_positives, weighted_log_loss
from hemodist.metrics.probabilities import probabilities, repair_any
from hemodist.metrics.scores import score, threshold_auc

PREVALENCE = np.array([0.144, 0.004, 0.048, 0.035, 0.048, 0.063])


def a_split(seed, n, levels, unknown=0.0):
    """Probabilities on a grid of `levels` values (so with ties), labels, groups; few slices often lack a class."""
    rng = np.random.default_rng(seed)
    probability = (rng.integers(levels, size=(n, 6)) + 0.5) / levels
    labels = (rng.random((n, 6)) < probability * 0.6).astype(np.int8)
    labels[rng.random((n, 6)) < unknown] = UNKNOWN
    labels[0, 0] = max(0, labels[0, 0])  # something is known
    return probability, labels, rng.integers(max(1, n // 4), size=n)


def scored(probability, labels, groups, **options):
    return score(probability, labels, groups, train_prevalence=PREVALENCE, **{"bootstrap": 0} | options)


def same(ours, reference):
    assert ours == pytest.approx(reference, rel=1e-12, abs=1e-12, nan_ok=True)


splits = st.builds(
    a_split,
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.sampled_from([2, 5, 1000]),
    st.sampled_from([0.0, 0.3]),
)


@settings(max_examples=60, deadline=None)
@given(splits)
def test_scores_of_every_label_equal_scikit_learns_with_ties_and_missing_classes(split):
    probability, labels, _ = split
    for i, ours in enumerate(scored(*split).labels):
        known = labels[:, i] != UNKNOWN
        p, y = probability[known, i], labels[known, i]
        assert (ours.label, ours.known, ours.positive) == (LABELS[i], known.sum(), (y == 1).sum())
        if not known.any():
            assert math.isnan(ours.log_loss.value)
            assert math.isnan(ours.accuracy.value)
            assert math.isnan(ours.calibration_error.value)
            continue
        same(ours.log_loss.value, sk.log_loss(y, p, labels=[0, 1]))
        same(ours.accuracy.value, sk.accuracy_score(y, p > 0.5))
        same(ours.brier.value, np.mean((p - y) ** 2) if len(set(y)) < 2 else sk.brier_score_loss(y, p))
        same(ours.prevalence, y.mean())
        same(ours.auc.value, sk.roc_auc_score(y, p) if len(set(y)) == 2 else math.nan)
        same(ours.average_precision.value, sk.average_precision_score(y, p) if y.any() else math.nan)


@settings(max_examples=40, deadline=None)
@given(splits)
def test_curves_are_the_shares_at_or_above_every_distinct_threshold(split):
    probability, labels, _ = split
    score, y = probability[:, 0], labels[:, 0]
    score, y = score[y != UNKNOWN], y[y != UNKNOWN]
    if len(set(y)) < 2:
        return
    called = score >= np.unique(score)[::-1, None]
    true, false = (called & (y == 1)).sum(axis=1), (called & (y == 0)).sum(axis=1)
    rates = [np.append(0, false) / (y == 0).sum(), np.append(0, true) / (y == 1).sum()]
    same(np.stack(ranking.roc_curve(score, y == 1)), np.stack(rates))
    same(np.stack(ranking.precision_recall_curve(score, y == 1)), np.stack([true / (true + false), true / true[-1]]))


@settings(max_examples=60, deadline=None)
@given(splits)
def test_accuracy_multi_and_weighted_log_loss_are_means_over_known_entries(split):
    probability, labels, _ = split
    known = labels != UNKNOWN
    ours = scored(*split)
    same(ours.accuracy_multi.value, sk.accuracy_score(labels[known], probability[known] > 0.5))
    weight = np.broadcast_to([2, 1, 1, 1, 1, 1], labels.shape)[known]
    expected = sk.log_loss(labels[known], probability[known], sample_weight=weight, labels=[0, 1])
    same(ours.weighted_log_loss.value, expected)
    assert ours.unknown == (~known).sum()


def test_weighted_log_loss_is_the_mean_over_slices_of_the_weighted_mean_over_labels():
    probability, labels, _ = a_split(1, 50, 1000)
    per_slice = [
        sum(w * sk.log_loss([y], [p], labels=[0, 1]) for w, y, p in zip((2, 1, 1, 1, 1, 1), ys, ps, strict=True)) / 7
        for ys, ps in zip(labels, probability, strict=True)
    ]
    same(weighted_log_loss(probability, labels), np.mean(per_slice))


def test_constant_prevalence_scores_what_the_published_counts_of_stage_1_give():
    counts = np.array([97_103, 2_761, 32_564, 23_766, 32_122, 42_496])  # positives among 674,258 slices
    labels = (np.arange(674_258)[:, None] < counts).astype(np.int8)
    constant = np.broadcast_to(share_of_positives(labels), labels.shape)
    assert weighted_log_loss(constant, labels) == pytest.approx(0.2320, abs=5e-5)


def test_a_certain_wrong_answer_costs_the_logarithm_of_epsilon_and_no_more():
    probability, labels = np.zeros((1, 6)), np.ones((1, 6), np.int8)
    assert weighted_log_loss(probability, labels) == pytest.approx(-math.log(1e-15))
    assert weighted_log_loss(1 - probability, 1 - labels) == pytest.approx(-math.log(1e-15), rel=0.01)


def test_calibration_error_equals_a_plain_loop_over_bins():
    probability, labels, _ = a_split(2, 400, 1000)
    p, y = probability[:, 0], labels[:, 0]
    expected = 0.0
    for b in range(15):
        inside = (p >= b / 15) & ((p < (b + 1) / 15) | (b == 14))
        if inside.any():
            expected += inside.mean() * abs(p[inside].mean() - y[inside].mean())
    nothing = np.zeros((0, 1))
    same(calibration_estimate(p, y == 1, np.zeros(len(p), int), nothing).value, expected)
    ends = calibration_estimate(np.array([0.0, 1.0]), np.array([False, True]), np.zeros(2, int), nothing)
    assert ends.value == 0


def test_unknown_labels_change_no_score():
    probability, labels, groups = a_split(3, 80, 50)
    more = np.concatenate([labels, np.full((20, 6), UNKNOWN, np.int8)])
    padded = scored(np.concatenate([probability, np.full((20, 6), 0.99)]), more, np.concatenate([groups, groups[:20]]))
    plain = scored(probability, labels, groups)
    assert padded.unknown == 120
    assert padded.labels == plain.labels
    assert padded.baselines == plain.baselines
    same(padded.weighted_log_loss.value, plain.weighted_log_loss.value)


def test_baselines_equal_what_a_constant_answer_scores():
    _, labels, groups = a_split(4, 200, 50, unknown=0.1)
    ours = scored(np.full(labels.shape, 0.5), labels, groups).baselines
    constant = scored(np.broadcast_to(PREVALENCE, labels.shape), labels, groups)
    none = scored(np.zeros(labels.shape), labels, groups)
    often = np.broadcast_to((share_of_positives(labels) > 0.5).astype(float), labels.shape)
    assert ours.constant_prevalence == constant.weighted_log_loss.value
    assert ours.predict_none == none.accuracy_multi.value
    same(ours.majority, scored(often, labels, groups).accuracy_multi.value)
    assert ours.constant_auc == none.auc_any.value
    assert ours.majority >= ours.predict_none


def test_probabilities_neither_overflow_nor_lose_small_logits():
    logits = np.array([[-745.0, -40.0, -1e-3, 0.0, 30.0, 3e38]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        ours = probabilities(logits)
    expected = [1 / (1 + math.exp(-x)) if x > -700 else math.exp(x) for x in logits[0].astype(float).tolist()]
    assert ours.dtype == np.float64
    assert ours[0] == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="1 of 6 logits are not finite"):
        probabilities(np.array([[0, 0, np.nan, 0, 0, 0]]))


def test_intervals_cover_the_truth_at_their_rate_when_slices_of_a_patient_resemble_each_other():
    """Per patient a shift of score and a skill; a bootstrap of slices would cover far less, and is shown to."""
    rng, patients, slices, spread, trials = np.random.default_rng(0), 60, 12, 1.0, 150
    true_auc = NormalDist().cdf(1 / math.sqrt(2 * (1 + spread**2)))  # positives shifted by 1, between patients
    group = np.repeat(np.arange(patients), slices)
    covered = {"auc": 0, "accuracy": 0, "accuracy by slice": 0}
    for trial in range(trials):
        y = rng.random(group.size) < 0.4
        score = y + rng.normal(size=group.size) + spread * rng.normal(size=patients)[group]
        right = (rng.random(group.size) < rng.beta(3, 1, size=patients)[group]).astype(float)  # mean skill 3/4
        counts = bootstrap.resamples(patients, 300, trial)
        found = ranking.ranking_scores(score, y, group, counts).auc
        covered["auc"] += found.low <= true_auc <= found.high
        found = bootstrap.mean_estimate(right, np.ones_like(right), group, counts)
        covered["accuracy"] += found.low <= 0.75 <= found.high
        single = np.arange(group.size)
        found = bootstrap.mean_estimate(right, np.ones_like(right), single, bootstrap.resamples(single.size, 300, 0))
        covered["accuracy by slice"] += found.low <= 0.75 <= found.high
    assert 0.88 <= covered["auc"] / trials <= 1.0
    assert 0.88 <= covered["accuracy"] / trials <= 0.99
    assert covered["accuracy by slice"] / trials < 0.85


def test_intervals_depend_on_the_seed_alone_and_not_on_the_names_of_the_groups():
    probability, labels, groups = a_split(5, 300, 100)
    one = scored(probability, labels, groups, bootstrap=100, seed=7)
    assert one == scored(probability, labels, groups, bootstrap=100, seed=7)
    assert one == scored(probability, labels, np.array([f"patient {g:03d}" for g in groups]), bootstrap=100, seed=7)
    other = scored(probability, labels, groups, bootstrap=100, seed=8)
    assert one.auc_any.low != other.auc_any.low
    assert one.auc_any.low < one.auc_any.value < one.auc_any.high


def test_one_group_has_a_score_and_no_interval():
    probability, labels, _ = a_split(6, 100, 100)
    ours = scored(probability, labels, np.zeros(100, int), bootstrap=100)
    assert 0 < ours.auc_any.value < 1
    assert math.isnan(ours.auc_any.low)
    assert math.isnan(ours.weighted_log_loss.high)
    assert ours.weighted_log_loss.replicates == 0


def test_groups_of_one_class_each_leave_out_the_replicates_without_a_second_class():
    group = np.repeat([0, 1], 20)
    labels = np.zeros((40, 6), np.int8)
    labels[group == 1, 0] = 1
    probability = np.random.default_rng(0).random((40, 6))
    ours = scored(probability, labels, group, bootstrap=400)
    assert 130 < ours.auc_any.replicates < 270  # both groups are drawn in half of the replicates
    assert ours.weighted_log_loss.replicates == 400
    same([ours.auc_any.low, ours.auc_any.high], [ours.auc_any.value] * 2)


def test_threshold_auc_is_the_auc_of_any_where_it_is_known():
    probability, labels, groups = a_split(7, 300, 100, unknown=0.1)
    assert threshold_auc(probability[:, 0] * 1000, labels) == scored(probability, labels, groups).auc_any.value
    assert math.isnan(threshold_auc(probability[:, 0], np.zeros_like(labels)))


def test_json_holds_every_score_and_no_nan():
    probability, labels, groups = a_split(8, 40, 10)
    labels[:, 1] = 0
    ours = scored(probability, labels, groups, bootstrap=20)
    text = json.dumps(ours.to_json(), allow_nan=False)
    back = json.loads(text)
    assert back["labels"][1]["auc"]["value"] is None
    assert back["labels"][1]["label"] == "epidural"
    assert back["weighted_log_loss"] == {
        "value": ours.weighted_log_loss.value,
        "low": ours.weighted_log_loss.low,
        "high": ours.weighted_log_loss.high,
        "replicates": 20,
    }


GOOD = a_split(9, 10, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probability": GOOD[0][:9]}, r"probabilities \(9, 6\) and labels \(10, 6\)"),
        ({"probability": GOOD[0][:, :5], "labels": GOOD[1][:, :5]}, r"must both be \[slices, 6\]"),
        ({"groups": GOOD[2][:9]}, r"groups \(9,\)"),
        ({"probability": GOOD[0] * 4}, "pass logits through"),
        ({"probability": GOOD[0] - 1}, r"not in \[0, 1\]"),
        ({"probability": np.where(GOOD[0] > 0.5, np.nan, GOOD[0])}, "probabilities are not finite"),
        ({"labels": GOOD[1] + np.int8(1)}, "only the integers 0, 1 and -1"),
        ({"labels": GOOD[1].astype(float)}, "float64"),
        ({"labels": np.full((10, 6), UNKNOWN, np.int8)}, "nothing to score"),
        ({"probability": np.zeros((0, 6)), "labels": np.zeros((0, 6), np.int8), "groups": GOOD[2][:0]}, "empty"),
        ({"train_prevalence": PREVALENCE[:5]}, r"shape \(5,\)"),
        ({"train_prevalence": np.where(np.arange(6) == 1, np.nan, PREVALENCE)}, "epidural nan"),
        ({"bootstrap": -1}, "bootstrap is -1"),
    ],
)
def test_bad_input_is_named(change, message):
    given_ = {"probability": GOOD[0], "labels": GOOD[1], "groups": GOOD[2], "train_prevalence": PREVALENCE}
    with pytest.raises(ValueError, match=message):
        score(**given_ | change)


def test_a_label_that_is_known_nowhere_needs_no_training_prevalence():
    probability, labels, groups = a_split(10, 40, 10)
    labels[:, 1] = UNKNOWN
    missing = np.where(np.arange(6) == 1, np.nan, PREVALENCE)
    ours = score(probability, labels, groups, train_prevalence=missing, bootstrap=5)
    assert ours.labels[1].known == 0
    assert math.isfinite(ours.baselines.constant_prevalence)


def test_fifteen_hundred_slices_with_500_replicates_take_under_a_second():
    probability, labels, groups = a_split(11, 1500, 100_000)
    scored(probability, labels, groups, bootstrap=500)  # first calls import and allocate
    before = time.process_time()
    scored(probability, labels, groups, bootstrap=500)
    assert time.process_time() - before < 1.0


def best(rate, reached, wanted):
    """The largest of `wanted` where `reached` is at least `rate`."""
    return max(wanted[reached >= rate - 1e-9], default=math.nan)


@settings(max_examples=60, deadline=None)
@given(splits)
def test_sensitivity_and_specificity_at_fixed_rates_equal_those_of_scikit_learns_curve(split):
    probability, labels, _ = split
    for i, ours in enumerate(scored(*split).labels):
        known = labels[:, i] != UNKNOWN
        p, y = probability[known, i], labels[known, i]
        found = (ours.sensitivity_at_90_specificity, ours.sensitivity_at_95_specificity,
                 ours.specificity_at_90_sensitivity, ours.specificity_at_95_sensitivity)  # fmt: skip
        if len(set(y)) < 2:
            assert all(math.isnan(one.value) for one in found)
            continue
        false, true, _ = sk.roc_curve(y, p, drop_intermediate=False)
        expected = [best(rate, 1 - false, true) for rate in (0.90, 0.95)]
        expected += [best(rate, true, 1 - false) for rate in (0.90, 0.95)]
        same([one.value for one in found], expected)


def test_a_rate_that_is_met_to_the_slice_is_met():
    """0.95 x 20 is 19 slices, whatever the rounding of floating point says."""
    for negatives in (10, 20, 60, 100, 140, 1000):
        score = np.arange(2.0 * negatives)
        positive = np.zeros(len(score), bool)
        positive[negatives // 20 * 19 :: 2] = True
        positive[: negatives // 20 * 19] = False
        points = ranking.operating_points(score / score.max(), positive, 0.5)
        for point, rate in zip(points[1:], (0.90, 0.95, 0.90, 0.95), strict=True):
            reached = point.specificity if "specificity" in point.name else point.sensitivity
            assert reached >= rate - 1e-12


@settings(max_examples=40, deadline=None)
@given(splits)
def test_operating_points_count_what_their_thresholds_call(split):
    probability, labels, _ = split
    p, y = probability[:, 0], labels[:, 0]
    p, y = p[y != UNKNOWN], y[y != UNKNOWN]
    if len(set(y)) < 2:
        return
    first, *others = ranking.operating_points(p, y == 1, 0.5)
    for point, called in [(first, p > 0.5), *((other, p >= other.threshold) for other in others)]:
        negative, positive = sk.confusion_matrix(y, called, labels=[0, 1])
        assert (point.true_negative, point.false_positive) == tuple(negative)
        assert (point.false_negative, point.true_positive) == tuple(positive)
        same(point.sensitivity, sk.recall_score(y, called))
        same(point.specificity, sk.recall_score(1 - y, ~called))
        if called.any():
            same(point.precision, sk.precision_score(y, called))


@settings(max_examples=40, deadline=None)
@given(splits, st.integers(0, 1000))
def test_each_replicate_of_a_ranking_score_is_that_of_the_split_with_its_groups_repeated(split, seed):
    probability, labels, groups = split
    group = np.unique(groups, return_inverse=True)[1]
    counts = bootstrap.resamples(group.max() + 1, 3, seed)
    known = labels[:, 0] != UNKNOWN
    score, y, group = probability[known, 0], labels[known, 0], group[known]
    if len(set(y)) < 2 or not len(counts):
        return
    (true, false), *more = list(ranking._sweeps(score, y == 1, group, counts))
    assert not more
    found = np.stack([ranking._auc(true, false), ranking._average_precision(true, false)])
    for ours, count in zip(np.concatenate([found, ranking._at_rates(true, false)]).T, counts, strict=True):
        weight = count[group]
        s, t, w = score[weight > 0], y[weight > 0], weight[weight > 0]
        if len(set(t)) < 2:
            assert math.isnan(ours[0])
            continue
        fall, rise, _ = sk.roc_curve(t, s, sample_weight=w, drop_intermediate=False)
        expected = [sk.roc_auc_score(t, s, sample_weight=w), sk.average_precision_score(t, s, sample_weight=w)]
        expected += [best(rate, 1 - fall, rise) for rate in (0.90, 0.95)]
        expected += [best(rate, rise, 1 - fall) for rate in (0.90, 0.95)]
        same(ours, expected)


def test_every_score_of_a_label_has_an_interval_around_it():
    probability, labels, groups = a_split(12, 800, 1000)
    ours = scored(probability, labels, groups, bootstrap=200)
    for label in ours.labels:
        found = [value for value in vars(label).values() if isinstance(value, bootstrap.Estimate)]
        assert len(found) == 10
        for one in found:
            assert one.replicates > 150
            assert one.low < one.high
    for one in (ours.weighted_log_loss, ours.accuracy_multi, ours.inconsistent, ours.error_rate):
        assert one.low < one.value < one.high


def test_intervals_of_ranking_scores_cover_the_truth_at_their_rate():
    """Truth from a sample of 200,000 slices; 120 splits of 60 patients each."""
    rng, patients, slices = np.random.default_rng(1), 60, 12

    def draw(count):
        group = np.repeat(np.arange(count), slices)
        y = rng.random(group.size) < 0.3
        return y + rng.normal(size=group.size) + 0.7 * rng.normal(size=count)[group], y, group

    score, y, _ = draw(17_000)
    false, true, _ = sk.roc_curve(y, score)
    truth = [sk.average_precision_score(y, score), best(0.90, 1 - false, true)]
    covered = np.zeros(2)
    for trial in range(120):
        score, y, group = draw(patients)
        found = ranking.ranking_scores(score, y, group, bootstrap.resamples(patients, 200, trial))
        pair = (found.average_precision, found.sensitivity_at[0])
        covered += [one.low <= value <= one.high for one, value in zip(pair, truth, strict=True)]
    assert (covered / 120 >= 0.87).all()
    assert (covered / 120 <= 1.0).all()


def test_repairing_any_leaves_nothing_inconsistent_and_no_other_probability_changed():
    probability, labels, groups = a_split(13, 300, 1000)
    wrong = probability[:, 0] < probability[:, 1:].max(axis=1)
    ours = scored(probability, labels, groups, bootstrap=50)
    same(ours.inconsistent.value, wrong.mean())
    repaired = repair_any(probability)
    assert (repaired[:, 1:] == probability[:, 1:]).all()
    assert (repaired[:, 0] == probability.max(axis=1)).all()
    assert scored(repaired, labels, groups).inconsistent.value == 0


def test_the_error_rate_is_what_accuracy_leaves():
    ours = scored(*a_split(14, 300, 1000), bootstrap=50)
    same(ours.error_rate.value, 1 - ours.accuracy_multi.value)
    same(ours.error_rate.low, 1 - ours.accuracy_multi.high)
    assert ours.to_json()["error_rate"]["value"] == ours.error_rate.value


def test_bands_of_the_curves_hold_the_curves_and_begin_and_end_where_they_must():
    probability, labels, groups = a_split(15, 900, 1000)
    group = np.unique(groups, return_inverse=True)[1]
    positive = labels[:, 0] == 1
    grid, roc, recall = ranking.bands(probability[:, 0], positive, group, bootstrap.resamples(group.max() + 1, 100, 0))
    false, true = ranking.roc_curve(probability[:, 0], positive)
    middle = np.interp(grid, false, true)
    inside = (roc[0] - 0.02 <= middle) & (middle <= roc[1] + 0.02)
    assert inside.mean() > 0.9
    assert roc[1, -1] == roc[0, -1] == 1.0
    assert abs(recall[:, -1].mean() - positive.mean()) < 0.1
    assert (roc[0] <= roc[1]).all()
    assert (recall[0] <= recall[1]).all()


def test_a_drawn_curve_and_its_band_follow_the_truth_for_a_label_that_few_slices_have():
    rng = np.random.default_rng(0)
    positive = np.zeros(60_000, bool)
    positive[:250] = True  # 0.42 %, as epidural
    score = rng.normal(size=len(positive)) + 3 * positive
    group = rng.integers(0, 3000, len(positive))
    precision, recall = ranking.precision_recall_curve(score, positive)
    drawn, at = ranking.thinned(precision, recall, 600)
    assert len(at) <= 600
    assert at[-1] == 1
    area = float((drawn * np.diff(at, prepend=0.0)).sum())
    assert area == pytest.approx(sk.average_precision_score(positive, score), abs=0.005)
    counts = bootstrap.resamples(3000, 100, 0)
    grid, _, band = ranking.bands(score, positive, group, counts)
    truth = precision[np.searchsorted(recall, grid[1:-1])]
    inside = (band[0, 1:-1] <= truth) & (truth <= band[1, 1:-1])
    assert inside.mean() > 0.95
