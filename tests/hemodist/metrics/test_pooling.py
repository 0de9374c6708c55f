from __future__ import annotations

import json
import math

import numpy as np
import pytest
import sklearn.metrics as sk

from hemodist.dataset.labels import UNKNOWN
from hemodist.metrics.log_loss import weighted_log_loss
from hemodist.metrics.plain_json import plain_json
from hemodist.metrics.pooling import Pooled, pooled_scores, unit_names
from hemodist.reports.score_tables import pooled_rows


def a_split(seed=0, n=200, units=30):
    rng = np.random.default_rng(seed)
    names = np.array([f"s{i:02d}" for i in rng.integers(units, size=n)])
    labels = (rng.random((n, 6)) < 0.15).astype(np.int8)
    labels[rng.random((n, 6)) < 0.05] = UNKNOWN
    return names, rng.random((n, 6)), labels


def test_pooled_probabilities_and_labels_equal_a_plain_loop_over_units():
    names, probability, labels = a_split()
    pooled = Pooled.of(names)
    most, noisy = pooled.probability(probability, "maximum"), pooled.probability(probability, "noisy_or")
    truth = pooled.labels(labels)
    for u, name in enumerate(pooled.names):
        own = names == name
        assert most[u] == pytest.approx(probability[own].max(axis=0))
        assert noisy[u] == pytest.approx(1 - np.prod(1 - probability[own], axis=0))
        for i in range(6):
            values = labels[own, i]
            expected = 1 if (values == 1).any() else UNKNOWN if (values == UNKNOWN).any() else 0
            assert truth[u, i] == expected


def test_noisy_or_keeps_small_probabilities_and_certainty():
    pooled = Pooled.of(np.array(["a"] * 3 + ["b"] * 2))
    p = np.array([1e-12, 1e-12, 1e-12, 1.0, 0.0])[:, None].repeat(6, axis=1)
    found = pooled.probability(p, "noisy_or")[:, 0]
    assert found[0] == pytest.approx(3e-12, rel=1e-9)
    assert found[1] == 1.0


def test_scores_of_units_equal_scikit_learns_on_the_pooled_arrays():
    names, probability, labels = a_split(1, 400, 60)
    groups = np.array([int(name[1:]) // 2 for name in names])
    for ours in pooled_scores("study", names, probability, labels, groups, bootstrap=50):
        pooled = Pooled.of(names)
        p, y = pooled.probability(probability, ours.pooling), pooled.labels(labels)
        assert ours.units == len(set(names))
        assert ours.weighted_log_loss.value == pytest.approx(weighted_log_loss(p, y))
        for i, label in enumerate(ours.labels):
            known = y[:, i] != UNKNOWN
            if len(set(y[known, i])) == 2:
                assert label.auc.value == pytest.approx(sk.roc_auc_score(y[known, i], p[known, i]))
                expected = sk.average_precision_score(y[known, i], p[known, i])
                assert label.average_precision.value == pytest.approx(expected)
        assert json.dumps(plain_json({"x": ours.constant_prevalence}), allow_nan=False)


def test_units_without_any_known_label_have_no_scores():
    names, probability, labels = a_split(2)
    assert pooled_scores("study", names, probability, np.full_like(labels, UNKNOWN), np.zeros(len(names), int)) == []


def test_one_group_has_scores_and_no_interval():
    names, probability, labels = a_split(3)
    found = pooled_scores("patient", names, probability, labels, np.zeros(len(names), int), bootstrap=20)
    assert all(math.isnan(one.weighted_log_loss.low) for one in found)


def test_a_slice_without_a_study_is_a_unit_of_its_fallback():
    assert unit_names([None, "s", None], np.array([1, 1, 2])).tolist() == ["(1)", "s", "(2)"]


def test_units_that_are_all_alike_leave_a_constant_nothing_to_get_wrong():
    labels = np.ones((6, 6), np.int8)
    found = pooled_scores("study", np.array(list("aabbcc")), np.full((6, 6), 0.5), labels, np.arange(6) // 2)
    assert [row[-1] for row in pooled_rows(found)] == [
        "0.6931 (constant 0: units are all alike)",
        "0.2877 (constant 0: units are all alike)",
    ]
    labels[:2] = 0
    found = pooled_scores("study", np.array(list("aabbcc")), np.full((6, 6), 0.5), labels, np.arange(6) // 2)
    assert [row[-1].partition(" ")[2] for row in pooled_rows(found)] == ["(constant 0.6365)"] * 2
