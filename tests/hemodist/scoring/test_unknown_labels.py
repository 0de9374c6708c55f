"""A data set in which only `any` is known trains, scores, predicts and reports without a number for the others."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hemodist.config.data import BatchConfig
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig, OptimConfig
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.metrics.predictions import Predictions
from hemodist.metrics.probabilities import comparable, inconsistent, repair_any, with_prevalence
from hemodist.metrics.scores import score
from hemodist.models.trained import open_trained
from hemodist.plan.prepare import prepare
from hemodist.predict import submission
from hemodist.predict.networks import check_settings
from hemodist.predict.new_slices import predict_dataset
from hemodist.predict.options import Settings
from hemodist.reports.run_log import curves
from hemodist.scoring.options import Options, ScoringRequest
from hemodist.scoring.score_checkpoint import score_checkpoint
from hemodist.training import loop
from hemodist.training.loop import Training
from hemodist.training.optimizer import Rates
from hemodist.world import World
from tests.support.dataset import make_dataset
from tests.support.ranks import run_ranks

SUBTYPES = LABELS[1:]
COUNTS = ("label", "known", "positive", "positive_groups")


def run_of(folder: Path, **changes) -> Run:
    run = Run(
        name="x",
        output=str(folder / "runs"),
        batch=BatchConfig(global_batch_size=16, mix_group=4, block_shards=2, eval_batch_size=32),
        model=ModelConfig(name="squeezenet1_1", image_size=32),
        optim=OptimConfig(name="sgd", lr=1e-3, epochs=1, schedule="constant", warmup_steps=0),
        scaling=ScalingConfig(workers=0),
        tracking=TrackingConfig(mode="disabled"),
    )
    run = replace(run, data=replace(run.data, dataset=str(folder / "data"), decode_threads=1))
    return replace(run, **changes)


def silent(event) -> None:
    """A `Tell` that nobody hears."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unknown")
    make_dataset(folder / "data", samples=100, unknown=SUBTYPES)
    loop.train(run_of(folder), World.alone(), silent)
    return folder


def an_epoch(world: World, run: Run) -> tuple[float, float, dict[str, np.ndarray]]:
    """Of one epoch: the train loss, the score of the same slices before it, and the parameters after it."""
    training = Training(run, world, silent)
    for module in training.learner.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    before = training.validation.predict(training.learner.network, 0, training.prepared.split.train)
    score = training.validation.scores(before)["weighted_log_loss"]
    for batch in training.batches():
        training.update(batch)
    loss, weight = training.epoch.totals()
    return loss / weight, score, {k: v.detach().numpy() for k, v in training.learner.network.named_parameters()}


def test_train_loss_and_score_agree_on_the_same_slices_whatever_ranks_and_micro_batches(folder):
    run = run_of(folder, name="agree", optim=OptimConfig(name="sgd", lr=1e-7, schedule="constant", epochs=1))
    run = replace(run, batch=replace(run.batch, global_batch_size=len(prepare(run).split.train), mix_group=1))
    alone = an_epoch(World.alone(), run)
    assert alone[0] == pytest.approx(alone[1], rel=1e-5)
    several = replace(run, batch=replace(run.batch, accumulate=3))
    for loss, score_, _ in run_ranks(an_epoch, 2, several):
        assert (loss, score_) == pytest.approx(alone[:2], rel=1e-5)


def test_the_size_of_a_step_does_not_depend_on_ranks_and_is_that_of_the_loss(folder):
    run = run_of(folder, name="steps")
    alone = an_epoch(World.alone(), run)[2]
    for _, _, parameters in run_ranks(an_epoch, 2, replace(run, batch=replace(run.batch, accumulate=2))):
        assert all(np.allclose(parameters[name], alone[name], atol=1e-6) for name in alone)
    training = Training(replace(run, name="gradient"), World.alone(), silent)
    network = training.learner.network.eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = next(training.batches())
    known = batch.targets[:, 0]
    torch.nn.functional.binary_cross_entropy_with_logits(network(batch.images)[:, 0], known).backward()
    expected = [p.grad.clone() for p in network.parameters()]
    training.learner.step(batch, Rates(0.0, 0.9))
    for found, wanted in zip(network.parameters(), expected, strict=True):
        assert torch.allclose(found.grad, wanted, atol=1e-6)


def test_the_start_table_says_unknown_and_a_note_says_what_follows(folder):
    run = run_of(folder)
    prepared = prepare(run)
    for part in ("train", "valid"):
        counted = prepared.facts(run)["split"][part]
        assert counted["any"] > 0
        assert [counted[name] for name in SUBTYPES] == ["unknown"] * 5
    (note,) = prepared.gaps(run)
    assert f"training split has nothing known of {', '.join(SUBTYPES)}" in note


def test_the_checkpoint_says_what_was_learned(folder):
    assert open_trained(str(folder / "runs/x")).learned.tolist() == [True] + [False] * 5


def test_scores_and_report_hold_no_number_for_what_nobody_knows(folder, tmp_path):
    request = ScoringRequest(str(folder / "runs/x"), str(folder / "data"), str(tmp_path), Options(repair_any=True))
    score_checkpoint(request, World.alone(), silent)
    for place in (folder / "runs/x", tmp_path):
        scores = json.loads((place / "metrics.json").read_text())
        assert scores["labels"][0]["auc"]["value"] is not None
        for label in scores["labels"][1:]:
            numbers = {name: one for name, one in label.items() if name not in COUNTS}
            assert label["known"] == 0
            assert all(one is None or one["value"] is None for one in numbers.values())
        assert scores["inconsistent"]["value"] is None  # there is nothing to be inconsistent with
        table = pq.read_table(place / "predictions.parquet")
        assert table.column("any").null_count == 0
        assert all(table.column(name).null_count == len(table) for name in SUBTYPES)
        page = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", (place / "report.html").read_text()))
        assert f"Not learned: {', '.join(SUBTYPES)}." in page
        assert "below P of a subtype" not in page
        assert not re.search(r"(subdural|epidural|subarachnoid) 0\.\d", page)
    raw, repaired = (
        pq.read_table(place / "predictions.parquet").column("any").to_numpy() for place in (folder / "runs/x", tmp_path)
    )
    assert np.allclose(raw, repaired, atol=1e-6)


def test_predictions_are_blank_and_rsnas_rows_hold_the_share_in_the_training(folder, tmp_path):
    settings = Settings(
        checkpoints=(str(folder / "runs/x"),), tta=False, repair_any=True, explain=None, explain_above=None,
        eval_batch_size=2**31 - 1, device="cpu", cache=None, cache_gb=None,
    )  # fmt: skip
    (member,) = check_settings(settings)
    predicted = predict_dataset(settings, DataSet.open(str(folder / "data")), silent)
    assert np.isnan(predicted.probability[:, 1:]).all()
    submission.write(str(tmp_path / "s.csv"), predicted, member.prevalence, "", {})
    rows = {row["ID"]: float(row["Label"]) for row in csv.DictReader((tmp_path / "s.csv").open())}
    for key, p in zip(predicted.keys, predicted.probability, strict=True):
        assert rows[f"{key}_any"] == pytest.approx(p[0])
        assert rows[f"{key}_epidural"] == 0.5
    for row in csv.DictReader((tmp_path / "s.studies.csv").open()):
        assert row["any"]
        assert all(row[name] == row[f"{name}_noisy_or"] == "" for name in SUBTYPES)


def test_repair_and_consistency_leave_out_what_was_not_learned():
    probability = np.array([[0.2, np.nan, 0.1, 0.1, 0.1, 0.1], [0.2, np.nan, 0.9, 0.1, 0.1, 0.1]])
    assert inconsistent(probability).tolist() == [False, True]
    assert repair_any(probability)[:, 0].tolist() == [0.2, 0.9]
    nothing = np.full((2, 6), np.nan)
    nothing[:, 0] = 0.3
    assert not inconsistent(nothing).any()
    assert not comparable(nothing).any()
    assert comparable(probability).all()
    assert np.array_equal(repair_any(nothing), nothing, equal_nan=True)


def test_a_label_of_which_the_training_knew_nothing_is_scored_as_the_constant_where_the_split_knows_it():
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 6)) < 0.4).astype(np.int8)
    probability, prevalence = rng.random((60, 6)), np.full(6, 0.3)
    missing = probability.copy()
    missing[:, 2] = np.nan
    scores = score(missing, labels, np.arange(60), train_prevalence=prevalence, bootstrap=0)
    expected = score(
        with_prevalence(missing, prevalence), labels, np.arange(60), train_prevalence=prevalence, bootstrap=0
    )
    assert scores.weighted_log_loss.value == expected.weighted_log_loss.value
    assert scores.labels[2].auc.value == 0.5
    missing[3, 4] = np.nan  # a hole is no label that was not learned
    with pytest.raises(ValueError, match="not finite"):
        score(missing, labels, np.arange(60), train_prevalence=prevalence, bootstrap=0)
    kinds = np.where(np.arange(6) == 2, 1, 2).astype(np.int8)
    given = Predictions(np.arange(60), rng.normal(size=(60, 6)).astype(np.float32), np.zeros(60), kinds)
    assert LABELS[2] not in curves(given, labels)["ROC"]


def test_one_kind_of_a_label_in_the_training_is_not_learned_either(tmp_path):
    make_dataset(tmp_path / "data", samples=60, positive=0.0)
    run = run_of(tmp_path)
    prepared = prepare(run)
    assert prepared.kinds.tolist() == [1] * 6
    training, validation = prepared.gaps(run)
    assert f"no positive of {', '.join(LABELS)}" in training
    assert "no positive of any" in validation
    assert "any none" in validation
    loop.train(run, World.alone(), silent)
    (row,) = json.loads((tmp_path / "runs/x/history.json").read_text())
    assert row["train_loss"] < 1  # of the network's own outputs, as the score is
    scored = json.loads((tmp_path / "runs/x/metrics.json").read_text())["weighted_log_loss"]["value"]
    assert scored == pytest.approx(row["valid_loss"])
    assert scored > 0.1
    table = pq.read_table(tmp_path / "runs/x/predictions.parquet")
    assert all(table.column(name).null_count == len(table) for name in LABELS)
