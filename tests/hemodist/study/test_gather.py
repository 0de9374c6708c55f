"""Systems are compared on the slices that all of them have answered for."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from hemodist.config.data import DataConfig
from hemodist.metrics.log_loss import weighted_log_loss
from hemodist.metrics.predictions import Predictions
from hemodist.metrics.probabilities import probabilities, with_prevalence
from hemodist.plan.prepare import prepare
from hemodist.scoring.write_results import PREDICTIONS, TEST_PREDICTIONS
from hemodist.storage.store import Store, join
from hemodist.study.gather import gather, parameters
from hemodist.study.options import Study
from hemodist.training.run_checkpoints import HISTORY
from tests.support.dataset import make_dataset

ROW = {"epoch": 1, "step": 3, "weighted_log_loss": 0.5, "auc_any": 0.7, "seconds": 10.0, "images_per_s": 40.0}


@pytest.fixture
def study(tmp_path) -> Study:
    dataset = str(make_dataset(tmp_path / "dataset"))
    small = {"image_size": 32, "global_batch_size": 32, "output": str(tmp_path / "study")}
    return replace(Study(**small), recipes=("resnet18", "resnet34"), seeds=(3, 5), data=DataConfig(dataset=dataset))


def answered(run, prepared, rows, logits, file=PREDICTIONS):
    """Leave what a finished run leaves, with the answers in any order."""
    store = Store.open(join(run.output, run.name))
    given = Predictions(rows, logits.astype(np.float32), np.zeros(len(rows)))
    store.write(file, given.to_parquet(prepared.dataset, probabilities(logits)))
    store.write(HISTORY, json.dumps([ROW, ROW | {"epoch": 2, "images_per_s": 60.0}]).encode())


def test_answers_are_matched_by_slice_and_only_common_ones_count(study):
    runs, rng = study.runs(), np.random.default_rng(0)
    prepared = prepare(runs[0])
    valid = prepared.split.valid
    logits = {run.name: rng.normal(size=(len(valid), 6)) for run in runs}
    for number, run in enumerate(runs):
        order = rng.permutation(len(valid))
        if number == 2:
            order = order[order != 4]  # a corrupt sample that this run has masked out
        answered(run, prepared, valid[order], logits[run.name][order])
    systems, labels = gather(runs, prepared, classical=True, replicates=100)
    common = np.arange(len(valid)) != 4
    np.testing.assert_array_equal(labels, prepared.labels[valid[common]])
    assert [system.name for system in systems] == [
        "constant prevalence", "threshold", "naive Bayes", "k-means", "resnet18", "resnet34",
    ]  # fmt: skip
    for system in systems[-2:]:
        assert system.seeds == (3, 5)
        assert system.seconds == (20.0, 20.0)
        assert system.images_per_s == (50.0, 50.0)
        expected = [
            weighted_log_loss(probabilities(logits[f"{system.name}-s{seed}"][common]), labels) for seed in (3, 5)
        ]
        np.testing.assert_allclose(system.resampled.value["weighted_log_loss"], expected)


def test_without_classical_methods_none_is_fitted(study):
    runs = study.runs()[:1]
    prepared = prepare(runs[0])
    answered(runs[0], prepared, prepared.split.valid, np.zeros((len(prepared.split.valid), 6)))
    systems, _ = gather(runs, prepared, classical=False, replicates=100)
    assert [system.name for system in systems] == ["constant prevalence", "resnet18"]
    assert systems[1].resampled.value["weighted_log_loss"][0] == pytest.approx(np.log(2))


def test_parameters_are_those_of_the_network_that_is_trained(study):
    assert parameters(study.runs()[0].model) == 11_179_590


def test_where_a_fold_is_held_out_systems_are_compared_on_it_alone(study):
    study = replace(study, data=replace(study.data, test_fold=2))
    runs = study.runs()[:1]
    prepared = prepare(runs[0])
    test = prepared.split.test
    answered(runs[0], prepared, prepared.split.valid, np.full((len(prepared.split.valid), 6), 9.0))
    answered(runs[0], prepared, test, np.zeros((len(test), 6)), TEST_PREDICTIONS)
    systems, labels = gather(runs, prepared, classical=True, replicates=100)
    np.testing.assert_array_equal(labels, prepared.labels[test])
    assert systems[-1].resampled.value["weighted_log_loss"][0] == pytest.approx(np.log(2))


def test_a_label_that_a_run_left_blank_is_answered_with_its_share_in_the_training(study):
    (run,) = study.runs()[:1]
    prepared = prepare(run)
    valid = prepared.split.valid
    probability = probabilities(np.random.default_rng(0).normal(size=(len(valid), 6)))
    probability[:, [0, 3]] = np.nan
    given = Predictions(valid, np.zeros((len(valid), 6), np.float32), np.zeros(len(valid)))
    store = Store.open(join(run.output, run.name))
    store.write(PREDICTIONS, given.to_parquet(prepared.dataset, probability))
    store.write(HISTORY, json.dumps([ROW]).encode())
    systems, labels = gather([run], prepared, classical=False, replicates=100)
    assert len(labels) == len(valid)
    expected = weighted_log_loss(with_prevalence(probability, prepared.train_prevalence), labels)
    assert systems[1].resampled.value["weighted_log_loss"][0] == pytest.approx(expected)
