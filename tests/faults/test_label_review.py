"""The review finds flipped labels of a phantom by networks that never saw the slices; the sharder takes them back."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hemodist.config.data import DataConfig
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.config.recipes import demo
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.launch.evaluate import evaluate
from hemodist.launch.train import train
from hemodist.scoring.options import Options, ScoringRequest
from shards.phantom import generate
from tests.support.builds import make

pytestmark = pytest.mark.faults

FOLDS, FLIPPED, ROWS = 3, 100, 200


def flipped(labels: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels that are wrong and contradict nothing: a bleed is denied, or one that is not there is given a subtype."""
    after = labels.copy()
    for row in rows.tolist():
        after[row] = 0
        if labels[row, 0] == 0:
            after[row, [0, 1 + rng.integers(len(LABELS) - 1)]] = 1
    return after


def corrections_of(path: Path, keys: list[str], labels: np.ndarray, rows: np.ndarray) -> str:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *(f"correct_{label}" for label in LABELS)])
        writer.writerows([keys[row], *labels[row].tolist()] for row in rows.tolist())
    return str(path)


@pytest.mark.timeout(7200)
def test_of_100_labels_flipped_at_random_at_least_80_stand_in_the_first_200_rows_and_go_back_as_they_were(tmp_path):
    source = generate.generate(tmp_path / "phantom", slices=1500, size=128).images
    settings = {"samples_per_shard": 256, "size": 64, "synthetic": True}
    make(source, tmp_path / "true", **settings)
    true = DataSet.open(str(tmp_path / "true"))
    keys, labels = true.index.column("key").to_pylist(), true.labels()
    rng = np.random.default_rng(1)
    rows = rng.choice(len(keys), FLIPPED, replace=False)
    wrong = flipped(labels, rows, rng)
    make(source, tmp_path / "wrong", corrections=corrections_of(tmp_path / "wrong.csv", keys, wrong, rows), **settings)
    recipe = demo()
    predictions = []
    for fold in range(FOLDS):  # each learns from wrong labels too, but not from those that it judges
        run = replace(
            recipe,
            name=f"fold{fold}",
            output=str(tmp_path / "runs"),
            data=DataConfig(dataset=str(tmp_path / "wrong"), folds=FOLDS, valid_fold=fold),
            model=replace(recipe.model, image_size=32, ema_decay=0.9),
            scaling=ScalingConfig(workers=0, device="cpu"),
            tracking=TrackingConfig(mode="disabled"),
        )
        train(run)
        predictions.append(str(tmp_path / f"runs/fold{fold}/predictions.parquet"))
    options = Options(worst=0, review=ROWS, review_predictions=tuple(predictions))
    asked = ScoringRequest(str(tmp_path / "runs/fold0"), str(tmp_path / "wrong"), str(tmp_path / "out"), options)
    evaluate(asked, ScalingConfig(workers=0, device="cpu"))
    with (tmp_path / "out/review.csv").open(newline="") as file:
        shown = {row["id"] for row in csv.DictReader(file)}
    assert len(shown) == ROWS
    found = np.array([row for row in rows.tolist() if keys[row] in shown])
    assert len(found) >= 80

    # A reader puts right what was found, on top of the wrong labels.
    mended = wrong.copy()
    mended[found] = labels[found]
    back = corrections_of(tmp_path / "back.csv", keys, mended, rows)
    make(source, tmp_path / "mended", corrections=back, **settings)
    after = DataSet.open(str(tmp_path / "mended")).labels()
    assert (after != labels).any(axis=1).sum() == FLIPPED - len(found)
