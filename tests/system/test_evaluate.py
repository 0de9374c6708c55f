"""Scoring a checkpoint as a person starts it: files, report, and what is refused."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hemodist.cluster.ownership import FILE, OvertakenError, claim
from hemodist.config.operation import ScalingConfig
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.digest import sha256
from hemodist.dataset.labels import LABELS
from hemodist.dataset.manifest import INDEX, MANIFEST, Manifest
from hemodist.errors import UserError
from hemodist.launch.evaluate import evaluate as launch
from hemodist.loading import cache_files
from hemodist.models.trained import open_trained
from hemodist.plan.prepare import divide
from hemodist.scoring.options import Options, ScoringRequest
from hemodist.scoring.score_checkpoint import check_request, score_checkpoint
from hemodist.scoring.worst_slices import find_worst_slices
from hemodist.scoring.write_results import Results
from hemodist.world import World
from tests.hemodist.loading.test_shard_cache import far
from tests.support.checkpoints import make_checkpoint
from tests.support.dataset import make_dataset
from tests.support.ranks import run_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A data set, a checkpoint trained on it (its valid fold is fold 0 of 5), and truth masks of its positives."""
    folder = tmp_path_factory.mktemp("evaluate")
    dataset = DataSet.open(str(make_dataset(folder / "data", samples=150)))
    make_checkpoint(folder / "run", dataset=dataset)
    (folder / "masks").mkdir()
    keys = dataset.index.column("key").to_pylist()
    for row in np.flatnonzero(dataset.labels()[:, 0] == 1).tolist():
        masks = np.zeros((5, 64, 64), bool)
        masks[0, :, :32] = True
        np.savez_compressed(folder / "masks" / f"{keys[row]}.npz", masks=masks)
    return folder


def scored(folder: Path, output: Path, **options) -> Results:
    given = ScoringRequest(str(folder / "run"), str(folder / "data"), str(output), Options(**options))
    return launch(given, ScalingConfig(workers=0, device="cpu"))


def test_everything_is_written_and_the_report_shows_the_worst_slices_and_the_pointing_game(folder, tmp_path):
    results = scored(folder, tmp_path / "out", part="all", worst=2, masks=str(folder / "masks"))
    assert results.scores is not None
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content["slices"] == 150
    assert {(one["level"], one["pooling"]) for one in content["pooled"]} == {
        (level, pooling) for level in ("study", "patient") for pooling in ("maximum", "noisy_or")
    }
    pointing = content["pointing"]
    table = pq.read_table(tmp_path / "out" / "predictions.parquet")
    true_positives = (table["label_any"].to_numpy() == 1) & (table["any"].to_numpy() > 0.5)
    assert pointing["cases"] == true_positives.sum() > 0
    assert pointing["chance"] == pytest.approx(0.5)
    assert 0 <= pointing["hits"] <= pointing["cases"]
    assert {"key", "group", "patient", "study", *LABELS, *(f"label_{label}" for label in LABELS)} <= set(
        table.column_names
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4
    assert f"{pointing['hits']} of {pointing['cases']} true positives" in page
    assert len(page) < 5_000_000


def test_flips_and_repairing_change_what_is_scored_and_are_told(folder, tmp_path):
    plain = scored(folder, tmp_path / "plain", part="all", worst=0).scores
    flipped = scored(folder, tmp_path / "tta", part="all", worst=0, tta=True).scores
    repaired = scored(folder, tmp_path / "repaired", part="all", worst=0, repair_any=True).scores
    assert plain.weighted_log_loss.value != flipped.weighted_log_loss.value
    assert plain.inconsistent.value > 0
    assert repaired.inconsistent.value == 0
    assert "Test-time augmentation" in (tmp_path / "tta" / "report.html").read_text()
    assert "was raised" in (tmp_path / "repaired" / "report.html").read_text()


def on_ranks(world: World, request: ScoringRequest):
    results = score_checkpoint(request, world, lambda event: None)
    return results.scores if world.is_rank_0 else None


def test_two_and_three_ranks_score_exactly_what_one_scores(folder, tmp_path):
    given = ScoringRequest(str(folder / "run"), str(folder / "data"), str(tmp_path), Options("all", worst=0))
    alone = run_ranks(on_ranks, 1, given)[0]
    for ranks in (2, 3):
        assert run_ranks(on_ranks, ranks, given)[0] == alone


def test_an_evaluation_that_another_driver_has_taken_over_writes_nothing(folder, tmp_path):
    given = ScoringRequest(str(folder / "run"), str(folder / "data"), str(tmp_path), Options("all", worst=0))
    world = replace(World.alone(), check_owner=claim(str(tmp_path)).check)
    claim(str(tmp_path))
    with pytest.raises(OvertakenError, match=f"another driver has gone on with {tmp_path}"):
        score_checkpoint(given, world, lambda event: None)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def relabelled(folder: Path, output: Path, change) -> Path:
    """A copy of the data set whose index `change` has made other."""
    output.mkdir()
    dataset = DataSet.open(str(folder / "data"))
    (output / "shards").symlink_to(folder / "data" / "shards")
    buffer = io.BytesIO()
    pq.write_table(change(dataset.index), buffer)
    (output / INDEX).write_bytes(buffer.getvalue())
    manifest = Manifest.from_bytes((folder / "data" / MANIFEST).read_bytes(), "")
    (output / MANIFEST).write_bytes(replace(manifest, index_sha256=sha256(buffer.getvalue())).to_bytes())
    return output


def with_column(index, name, values):
    at = index.schema.get_field_index(name)
    return index.set_column(at, index.schema.field(at), pa.array(values, index.schema.field(at).type))


def refused(folder: Path, message: str, *, dataset: Path | None = None, **options) -> None:
    given = ScoringRequest(str(folder / "run"), str(dataset or folder / "data"), "out", Options(**options))
    with pytest.raises(UserError, match=message):
        check_request(given)


def test_a_data_set_without_any_label_is_named_with_the_remedy(folder, tmp_path):
    def unlabelled(index):
        for label in LABELS:
            index = with_column(index, label, [None] * len(index))
        return index

    dataset = relabelled(folder, tmp_path / "data", unlabelled)
    refused(folder, "no labelled slice to score among its 150 samples", dataset=dataset, part="all")
    refused(folder, "none of the 150 samples .* has a label", dataset=dataset, part="valid")


def test_a_data_set_without_the_needed_fold_is_named(folder, tmp_path):
    dataset = relabelled(folder, tmp_path / "data", lambda index: with_column(index, "group", [3] * len(index)))
    refused(folder, "fold 0 of 5 leaves .* use another data.valid_fold", dataset=dataset, part="valid")
    refused(folder, "kept no test fold", part="test")


def test_a_damaged_index_and_a_missing_data_set_are_named(folder, tmp_path):
    dataset = relabelled(folder, tmp_path / "data", lambda index: index)
    (dataset / INDEX).write_bytes(b"PAR1 broken")
    refused(folder, "does not match its digest", dataset=dataset)
    refused(folder, "manifest.json does not exist", dataset=tmp_path / "nothing")


def test_flags_that_cannot_work_are_named(folder, tmp_path):
    refused(folder, "worst -1 is out of range", worst=-1)
    refused(folder, "holds no mask", masks=str(tmp_path))
    refused(folder, "eval_batch_size -1 is out of range", eval_batch_size=-1)


def test_flags_replace_what_the_run_had(folder):
    given = Options(cache="/c", eval_batch_size=5, decode_threads=2, decoder="cpu", on_corrupt="mask", cache_gb=3.0)
    run = given.applied(check_request(ScoringRequest(str(folder / "run"), str(folder / "data"), "out"))[1], "d")
    assert (run.data.cache, run.data.decode_threads, run.data.decoder) == ("/c", 2, "cpu")
    assert (run.data.on_corrupt, run.data.cache_gb, run.batch.eval_batch_size, run.data.dataset) == (
        "mask",
        3.0,
        5,
        "d",
    )


def test_another_data_set_is_scored_with_a_warning_and_has_no_fold_of_the_run(folder, tmp_path):
    groups = DataSet.open(str(folder / "data")).column("group")
    other = relabelled(folder, tmp_path / "data", lambda index: with_column(index, "group", (groups[::-1]).tolist()))
    refused(folder, "is not the data set that x was trained on, .* patients of", dataset=other, part="valid")
    given = ScoringRequest(str(folder / "run"), str(other), str(tmp_path / "out"), Options(worst=0))
    launch(given, ScalingConfig(workers=0, device="cpu"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "all labelled slices" in page
    assert "nobody can tell here whether patients of the training are among the scored ones" in page


def test_scores_on_slices_of_the_training_are_told_with_their_number_and_the_files_say_what_was_scored(
    folder, tmp_path, capsys
):
    dataset = DataSet.open(str(folder / "data"))
    run = check_request(ScoringRequest(str(folder / "run"), str(folder / "data"), "out"))[1]
    learned = len(divide(run.data, dataset).train)
    scored(folder, tmp_path / "all", part="all", worst=0)
    warning = f"trained on {learned} of the 150 scored slices"
    assert warning in capsys.readouterr().out
    assert warning in (tmp_path / "all" / "report.html").read_text()
    scored(folder, tmp_path / "valid", worst=0, tta=True)
    said = capsys.readouterr().out
    assert "trained on" not in said
    assert "was chosen on this very part" in said
    found = {part: json.loads((tmp_path / part / "metrics.json").read_text()) for part in ("all", "valid")}
    assert found["all"]["scored"] == {
        "checkpoint": str(folder / "run"), "step": 7, "part": "all labelled slices", "test_time_augmentation": False,
        "dataset": str(folder / "data"), "dataset_digest": dataset.manifest.digest, "repaired_any": False,
    }  # fmt: skip
    assert found["valid"]["scored"]["part"] == "valid fold 0 of 5"
    assert found["valid"]["scored"]["test_time_augmentation"]


def test_a_decision_can_be_repeated_from_the_threshold_that_is_written(folder, tmp_path):
    scored(folder, tmp_path, part="all", worst=0)
    table = pq.read_table(tmp_path / "predictions.parquet")
    score, truth = table["any"].to_numpy(), table["label_any"].to_numpy() == 1
    points = json.loads((tmp_path / "metrics.json").read_text())["operating_points"]
    assert len(points) == 5
    for point in points[1:]:
        called = score >= (np.inf if point["threshold"] is None else point["threshold"])
        assert (called & truth).sum() == point["true_positive"]
        assert (called & ~truth).sum() == point["false_positive"]


def test_studies_and_patients_of_which_slices_were_left_out_are_said_to_be_incomplete(folder, tmp_path):
    def half_unlabelled(index):
        for label in LABELS:
            values = index.column(label).to_pylist()
            index = with_column(index, label, [value if row % 2 else None for row, value in enumerate(values)])
        return index

    scored(folder, tmp_path / "whole", part="all", worst=0)
    assert "not of whole ones" not in (tmp_path / "whole" / "report.html").read_text()
    other = relabelled(folder, tmp_path / "data", half_unlabelled)
    given = ScoringRequest(str(folder / "run"), str(other), str(tmp_path / "half"), Options(worst=0))
    launch(given, ScalingConfig(workers=0, device="cpu"))
    held = json.loads((tmp_path / "half" / "metrics.json").read_text())["slices_held_by_units"]
    index = DataSet.open(str(other)).index.to_pandas(strings_to_categorical=False)
    for level, n in held.items():
        units = set(index[level][1::2])
        assert n == index[level].isin(units).sum() > 75
        name = {"study": "studies", "patient": "patients"}[level]
        assert f"75 of the {n} slices of these {name}" in (tmp_path / "half" / "report.html").read_text()


def test_the_worst_slices_lie_in_many_shards_and_a_cache_of_few_is_enough(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_files, "WAIT_FOR_FREE_BYTES", 0.5)
    trained = open_trained(str(folder / "run"))
    dataset = far(folder / "data", tmp_path / "log")
    room = sum(sorted(info.bytes for info in dataset.manifest.shards)[-3:])
    data = replace(trained.run.data, cache=str(tmp_path / "cache"), cache_gb=room / 1e9)
    trained = replace(trained, run=replace(trained.run, data=data))
    rows = np.arange(150)
    probability = np.random.default_rng(0).random((150, 6))
    found = find_worst_slices(trained, dataset, rows, probability, torch.device("cpu"), count=6, masks=None)
    assert [one.kind for one in found] == ["missed"] * 6 + ["alarm"] * 6
    assert len(dataset.store.counts()) > 3
