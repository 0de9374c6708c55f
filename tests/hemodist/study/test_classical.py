"""The classical methods find what can be found by gray values, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from hemodist.config.data import DataConfig
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import UNKNOWN
from hemodist.errors import UserError
from hemodist.loading.pixels import MEAN, STD
from hemodist.metrics.log_loss import share_of_positives, weighted_log_loss
from hemodist.plan.prepare import divide
from hemodist.study import classical
from tests.support.dataset import make_dataset

PATIENTS = np.arange(600) // 20  # of the slices that are drawn
METHODS = ["threshold", "naive Bayes", "k-means"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> DataSet:
    return DataSet.open(str(make_dataset(tmp_path_factory.mktemp("classical") / "dataset", samples=400, patients=40)))


@pytest.fixture(scope="module")
def measured(dataset):
    parts = divide(DataConfig(), dataset)
    return tuple(classical.statistics(dataset, rows, DataConfig()) for rows in (parts.train, parts.valid))


def drawn(n=600, seed=0, signal=0.0):
    """Statistics of slices that have nothing to do with their labels, but for a shift of `signal`."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 6)) < 0.3).astype(np.int8)
    windows = rng.normal(size=(n, 54)) + signal * labels[:, :1]
    return classical.Statistics(np.arange(n), windows, windows[:, :1].copy(), 1.0), labels


def test_statistics_are_those_of_the_pixels():
    gray = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8)) / 255
    images = (torch.tensor(gray) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    found = classical.window_statistics(images.float()).reshape(4, 3, -1)
    np.testing.assert_allclose(found[..., 0], gray.mean(axis=(2, 3)), atol=1e-6)
    np.testing.assert_allclose(found[..., 1], gray.std(axis=(2, 3)), atol=1e-6)
    expected = [[np.histogram(g, classical.BINS, (0, 1))[0] / 64 for g in image] for image in gray]
    np.testing.assert_allclose(found[..., 2:], expected, atol=1e-6)


def test_slices_are_measured_once_each_in_the_order_of_the_rows(dataset):
    rows = np.array([5, 390, 2, 77, 78])
    found = classical.statistics(dataset, rows, DataConfig())
    assert found.rows.tolist() == rows.tolist()
    alone = classical.statistics(dataset, rows[1:2], DataConfig())
    np.testing.assert_allclose(found.windows[1], alone.windows[0])
    np.testing.assert_allclose(found.windows.reshape(5, 3, -1)[:, :, 2:].sum(axis=2), 1)


def test_every_method_sees_what_gray_values_show(dataset, measured):
    train, valid = measured
    labels = dataset.labels()
    answers = classical.fit_methods(train, labels[train.rows], dataset.column("group")[train.rows], valid)
    assert [floor.name for floor in answers] == METHODS
    truth = labels[valid.rows]
    constant = np.broadcast_to(share_of_positives(labels[train.rows]), truth.shape)
    for floor in answers[1:]:  # the drawn squares of this data set are brighter than any blood
        assert roc_auc_score(truth[:, 0], floor.probability[:, 0]) > 0.9, floor.name
        assert weighted_log_loss(floor.probability, truth) < weighted_log_loss(constant, truth)


def test_a_threshold_sees_one_number():
    (train, labels), (valid, truth) = drawn(signal=3.0), drawn(seed=1, signal=3.0)
    threshold = classical.fit_methods(train, labels, PATIENTS, valid)[0]
    order = np.argsort(valid.blood[:, 0])
    assert (np.diff(threshold.probability[order, 0]) >= 0).all()
    assert roc_auc_score(truth[:, 0], threshold.probability[:, 0]) > 0.95


def test_without_signal_no_method_claims_much():
    """Calibration holds: nothing is far worse than the constant answer."""
    (train, labels), (valid, truth) = drawn(), drawn(seed=1)
    constant = weighted_log_loss(np.broadcast_to(share_of_positives(labels), truth.shape), truth)
    for floor in classical.fit_methods(train, labels, PATIENTS, valid):
        assert 0.4 < roc_auc_score(truth[:, 0], floor.probability[:, 0]) < 0.6, floor.name
        assert weighted_log_loss(floor.probability, truth) < 1.15 * constant, floor.name


def test_labels_that_are_unknown_or_of_one_class_are_answered_by_prevalence():
    (train, labels), (valid, _) = drawn(), drawn(50, seed=1)
    labels[:, 1] = 0
    labels[:, 2] = UNKNOWN
    for floor in classical.fit_methods(train, labels, PATIENTS, valid):
        assert np.isfinite(floor.probability).all(), floor.name
        np.testing.assert_allclose(floor.probability[:, 1], 0.5 / 601, atol=0.01)
        np.testing.assert_allclose(floor.probability[:, 2], 0.5)


def test_unknown_labels_teach_nothing():
    (train, labels), (valid, _) = drawn(signal=1.0), drawn(50, seed=1)
    rows = np.arange(600) % 3 > 0
    masked = labels.copy()
    masked[~rows] = UNKNOWN
    fewer = classical.Statistics(train.rows[rows], train.windows[rows], train.blood[rows], 1.0)
    whole, part = (
        classical.fit_methods(train, masked, PATIENTS, valid)[0],
        classical.fit_methods(fewer, labels[rows], PATIENTS[rows], valid)[0],
    )
    np.testing.assert_allclose(whole.probability, part.probability, atol=1e-6)


def test_a_label_that_one_patient_alone_shows_is_answered_by_prevalence_where_calibration_needs_two():
    (train, labels), (valid, _) = drawn(signal=1.0), drawn(50, seed=1)
    labels[:, 3] = PATIENTS == 4
    bayes = classical.fit_methods(train, labels, PATIENTS, valid)[1]
    np.testing.assert_allclose(bayes.probability[:, 3], 20.5 / 601)


def test_the_same_seed_gives_the_same_answers():
    (train, labels), (valid, _) = drawn(), drawn(50, seed=1)
    once, again = (classical.fit_methods(train, labels, PATIENTS, valid, seed=7) for _ in range(2))
    for a, b in zip(once, again, strict=True):
        np.testing.assert_array_equal(a.probability, b.probability)


def test_where_no_window_resolves_blood_there_is_no_threshold():
    (train, labels), (valid, _) = drawn(), drawn(50, seed=1)
    blind = classical.Statistics(valid.rows, valid.windows, np.full((50, 1), np.nan), 1.0)
    assert [floor.name for floor in classical.fit_methods(train, labels, PATIENTS, blind)] == METHODS[1:]


def test_a_corrupt_sample_stops_or_is_left_out(tmp_path):
    folder = make_dataset(tmp_path / "dataset", samples=30, per_shard=30)
    dataset = DataSet.open(str(folder))
    tar = folder / "shards/000000.tar"
    content = bytearray(tar.read_bytes())
    content[int(dataset.column("offset")[4]) + 60] ^= 0xFF
    tar.write_bytes(content)
    rows = np.arange(30)
    with pytest.raises(UserError, match="s00004"):
        classical.statistics(dataset, rows, DataConfig())
    found = classical.statistics(dataset, rows, DataConfig(on_corrupt="mask"))
    assert found.rows.tolist() == [row for row in range(30) if row != 4]
