"""A review as a person asks for it: a page to look at, and a CSV that the sharder takes back."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hemodist.config.operation import ScalingConfig
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.errors import ConfigError
from hemodist.launch.evaluate import evaluate
from hemodist.models.trained import open_trained
from hemodist.plan.prepare import divide
from hemodist.scoring.options import Options, ScoringRequest
from shards.building import corrections
from tests.support.checkpoints import make_checkpoint
from tests.support.dataset import make_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("review")
    dataset = DataSet.open(str(make_dataset(folder / "data", samples=150)))
    make_checkpoint(folder / "run", dataset=dataset)
    return folder


def reviewed(folder: Path, output: Path, **options) -> list[dict[str, str]]:
    given = ScoringRequest(str(folder / "run"), str(folder / "data"), str(output), Options(worst=0, **options))
    evaluate(given, ScalingConfig(workers=0, device="cpu"))
    with (output / "review.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> tuple[Path, list[dict[str, str]]]:
    """Where the review of all slices is, and its rows."""
    output = tmp_path_factory.mktemp("whole")
    return output, reviewed(folder, output, part="all", review=20)


def predictions(dataset: DataSet, rows: np.ndarray, probability: np.ndarray, path: Path) -> str:
    columns = {"key": dataset.index.column("key").take(pa.array(rows))}
    pq.write_table(pa.table(columns | {label: probability[:, i] for i, label in enumerate(LABELS)}), path)
    return str(path)


def test_the_review_is_as_long_as_asked_for_and_says_what_the_network_has_learned(folder, whole):
    output, rows = whole
    assert len(rows) == 20
    page = (output / "review.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 20
    trained = open_trained(str(folder / "run"))
    learned = len(divide(trained.run.data, DataSet.open(str(folder / "data"))).train)
    assert f"The network has learned {learned} of these slices" in page
    assert "Label review: the 20 most doubtful of 150 slices" in (output / "report.html").read_text()


def test_the_table_shows_the_labels_as_they_are_and_what_is_filled_in_is_read_back(folder, whole, tmp_path):
    rows = [dict(row) for row in whole[1]]
    dataset = DataSet.open(str(folder / "data"))
    of = dict(zip(dataset.index.column("key").to_pylist(), dataset.labels().tolist(), strict=True))
    assert all([int(row[label]) for label in LABELS] == of[row["id"]] for row in rows)
    assert all(row[f"correct_{label}"] == "" for row in rows for label in LABELS)
    rows[3]["correct_any"] = str(1 - int(rows[3]["any"]))
    with (tmp_path / "filled.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    found = corrections.read(str(tmp_path / "filled.csv"))
    keys = list(of)
    after = found.applied(keys, np.array(list(of.values()), np.int8))
    changed = np.argwhere(after != np.array(list(of.values())))
    assert changed.tolist() == [[keys.index(rows[3]["id"]), 0]]


def test_predictions_of_networks_that_never_saw_a_slice_take_the_place_of_this_one(folder, tmp_path):
    dataset = DataSet.open(str(folder / "data"))
    labels = dataset.labels()
    right = np.where(labels == 1, 0.98, 0.02)
    wrong = int(np.flatnonzero((labels[:, 0] == 1) & (labels[:, 1:].sum(axis=1) > 0))[4])
    right[wrong] = 0.02
    rows = np.arange(len(labels))
    halves = [
        predictions(dataset, part, right[part], tmp_path / f"{n}.parquet")
        for n, part in enumerate((rows[:70], rows[70:]))
    ]
    found = reviewed(folder, tmp_path / "out", review=150, review_predictions=tuple(halves))
    assert len(found) == 150
    consistent = [row for row in found if "contradicts" not in row["why"]]
    assert consistent[0]["id"] == dataset.index.column("key")[wrong].as_py()
    assert "is 1; the network gives 0.02; before and after it is" in consistent[0]["why"]
    assert "has learned" not in (tmp_path / "out" / "review.html").read_text()


def test_predictions_of_other_slices_or_without_a_review_are_refused_before_anything_runs(folder, tmp_path):
    dataset = DataSet.open(str(make_dataset(tmp_path / "larger", samples=160)))
    other = predictions(dataset, np.arange(160), np.full((160, 6), 0.5), tmp_path / "other.parquet")
    with pytest.raises(ConfigError, match="10 of its 160 slices are not in"):
        reviewed(folder, tmp_path / "out", review=5, review_predictions=(other,))
    with pytest.raises(ConfigError, match="--review-predictions is for --review N"):
        reviewed(folder, tmp_path / "out", review_predictions=(other,))
    (tmp_path / "no.parquet").write_bytes(b"no")
    for name, said in (("no.parquet", "holds no predictions of hemodist"), ("none.parquet", "do not exist")):
        with pytest.raises(ConfigError, match=said):
            reviewed(folder, tmp_path / "out", review=5, review_predictions=(str(tmp_path / name),))
