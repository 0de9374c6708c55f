"""Prediction as a person starts it: what sharding and evaluating give, and a row or a reason for each file."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydicom import dcmread

from hemodist.config.data import AugmentConfig
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.errors import ConfigError, UserError
from hemodist.predict.networks import settings_of
from hemodist.predict.new_slices import predict_dataset
from hemodist.predict.options import PredictConfig
from jobs import predict, shard
from shards.building.for_prediction import chunks
from shards.dicom.reasons import Reason
from tests.support.checkpoints import SHARDING, make_checkpoint, run_of
from tests.support.dataset import make_dataset
from tests.support.dicom_files import dicom_file, write_source


def run_here(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
    return predict.main()


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(path: Path) -> dict[str, list[float]]:
    """Six probabilities by slice, in the order of `LABELS`."""
    found: dict[str, dict[str, float]] = {}
    for row in read(path):
        key, _, label = row["ID"].rpartition("_")
        found.setdefault(key, {})[label] = float(row["Label"])
    return {key: [values[label] for label in LABELS] for key, values in found.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("predict") / "run")


def test_real_slices_get_the_probabilities_of_sharding_and_predicting_the_data_set(
    shared_dicom, checkpoint, tmp_path, monkeypatch
):
    source, output = shared_dicom / "head_ct", tmp_path / "submission.csv"
    code = run_here(monkeypatch, checkpoint, source, "--output", output, "--explain", tmp_path / "heat")
    files = [path for path in source.rglob("*") if path.is_file()]
    faulty = [path for path in files if path.suffix not in (".dcm", ".md")]  # a licence without an ending
    assert code == (predict.EXIT_NOT_PREDICTED if faulty else 0)
    found = table(output)
    assert len(found) == 28
    assert len(read(output)) == 6 * 28
    assert np.isfinite(list(found.values())).all()
    assert [row["reason"] for row in read(tmp_path / "submission.rejected.csv")] == ["not_dicom"] * (len(files) - 28)

    flags = ["--source", source, "--output", tmp_path / "data", "--size", "64", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["shard.py", *map(str, flags)])
    shard.main()
    run_here(monkeypatch, checkpoint, tmp_path / "data", "--output", tmp_path / "again.csv")
    again = table(tmp_path / "again.csv")
    assert again.keys() == found.keys()
    difference = np.abs(np.array([again[key] for key in found]) - np.array(list(found.values()))).max()
    assert difference < 1e-3
    assert np.ptp(np.array(list(found.values())), axis=0).max() > 1e-3  # the network does tell slices apart

    (study,) = read(tmp_path / "submission.studies.csv")
    assert study["slices"] == "28"
    for i, label in enumerate(LABELS):
        assert float(study[label]) == pytest.approx(max(values[i] for values in found.values()), abs=1e-7)
    pictures = sorted((tmp_path / "heat").glob("*.png"))
    assert [path.stem for path in pictures] == sorted(found)
    assert all(np.asarray(Image.open(path)).std() > 1 for path in pictures)


def test_broken_files_get_reasons_and_the_documented_code(shared_dicom, checkpoint, tmp_path, monkeypatch):
    source, output = shared_dicom / "broken", tmp_path / "b.csv"
    assert run_here(monkeypatch, checkpoint, source, "--output", output) == predict.EXIT_NOT_PREDICTED == 3
    reasons = {row["path"]: row["reason"] for row in read(tmp_path / "b.rejected.csv")}
    assert set(reasons) == {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert set(reasons.values()) <= {reason.value for reason in Reason}
    assert read(output) == []
    allowed = run_here(monkeypatch, checkpoint, source, "--output", output, "--max-rejected-fraction", "1")
    assert allowed == 0


def test_two_ray_workers_predict_what_one_process_predicts(checkpoint, tmp_path, monkeypatch, capsys):
    source = write_source(tmp_path / "source", 9)
    (source / "cut.dcm").write_bytes(dicom_file()[:400])
    assert run_here(monkeypatch, checkpoint, source, "--output", tmp_path / "one.csv") == 3
    assert run_here(monkeypatch, checkpoint, source, "--workers", "2", "--output", tmp_path / "two.csv") == 3
    assert capsys.readouterr().err.count("of the files are faulty") == 2
    for kind in ("", ".files", ".studies", ".rejected"):
        assert (tmp_path / f"two{kind}.csv").read_text() == (tmp_path / f"one{kind}.csv").read_text()


def test_an_ensemble_is_the_mean_probability_of_its_checkpoints(tmp_path, monkeypatch):
    source = write_source(tmp_path / "source", 5)
    runs = [make_checkpoint(tmp_path / f"run{seed}", seed=seed) for seed in (1, 2)]
    # The third one was trained on other pictures, and gets those.
    runs.append(make_checkpoint(tmp_path / "run3", seed=3, sharding=SHARDING | {"size": 48, "encoding": "png"}))
    alone = []
    for number, one in enumerate(runs):
        assert run_here(monkeypatch, one, source, "--output", tmp_path / f"{number}.csv") == 0
        alone.append(table(tmp_path / f"{number}.csv"))
    run_here(monkeypatch, runs[0], source, "--ensemble", *runs[1:], "--output", tmp_path / "all.csv",
             "--explain", tmp_path / "heat")  # fmt: skip
    together = table(tmp_path / "all.csv")
    for key, values in together.items():
        assert values == pytest.approx(np.mean([one[key] for one in alone], axis=0), abs=1e-6)
    assert len(list((tmp_path / "heat").glob("*.png"))) == 5


def test_the_networks_of_an_ensemble_explain_the_same_slices_whatever_batches_they_were_trained_with(
    tmp_path, monkeypatch
):
    source = write_source(tmp_path / "source", 7)
    runs = []
    for seed, size in ((1, 2), (2, 5)):
        run = run_of(batch=replace(run_of().batch, eval_batch_size=size))
        runs.append(make_checkpoint(tmp_path / f"run{seed}", seed=seed, run=run))
    flags = ["--ensemble", runs[1], "--explain-above", "0"]
    for name, more in {"own": [], "one": ["--eval-batch-size", "7"]}.items():
        outputs = ["--output", tmp_path / f"{name}.csv", "--explain", tmp_path / name]
        assert run_here(monkeypatch, runs[0], source, *flags, *outputs, *more) == 0
    maps = {path.name: path.read_bytes() for path in (tmp_path / "own").glob("*.png")}
    assert len(maps) == 7
    for name, content in maps.items():
        together = (tmp_path / "one" / name).read_bytes()
        own, one = (np.asarray(Image.open(io.BytesIO(png)), np.int16) for png in (content, together))
        assert np.abs(own - one).max() <= 2  # rounding


def test_tta_is_the_mean_over_flips_and_repairing_raises_any(checkpoint, tmp_path, monkeypatch):
    source = write_source(tmp_path / "source", 4)
    tables = {}
    for name, flags in {"plain": [], "tta": ["--tta"], "repaired": ["--repair-any"]}.items():
        run_here(monkeypatch, checkpoint, source, "--output", tmp_path / f"{name}.csv", *flags)
        tables[name] = np.array(list(table(tmp_path / f"{name}.csv").values()))
    assert not np.allclose(tables["tta"], tables["plain"])
    assert (tables["repaired"][:, 0] == tables["plain"].max(axis=1)).all()
    unflipped = make_checkpoint(tmp_path / "unflipped", run=replace(run_of(), augment=AugmentConfig()))
    with pytest.raises(ConfigError, match="trained without flips"):
        run_here(monkeypatch, unflipped, source, "--tta", "--output", tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "x.txt"], r"must be a \.csv file"),
        (["--workers", "-1"], "workers -1 is out of range"),
        (["--max-rejected-fraction", "2"], "max_rejected_fraction 2.0 is out of range"),
        (["--device", "cuda", "--workers", "2"], "device cuda needs a GPU"),
        (["--ensemble", "nothing"], "holds no whole checkpoint"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_predicted(checkpoint, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hemodist.predict.new_slices.predict_chunk", None)
    source = write_source(tmp_path / "source", 1)
    with pytest.raises(UserError, match=message):
        run_here(monkeypatch, checkpoint, source, *flags)


def test_an_empty_folder_and_a_data_set_of_other_windows_are_named(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no file below the source"):
        run_here(monkeypatch, checkpoint, tmp_path / "empty", "--output", tmp_path / "x.csv")
    dataset = make_dataset(tmp_path / "data", samples=5)
    with pytest.raises(ConfigError, match="trained on slices with windows"):
        run_here(monkeypatch, checkpoint, dataset, "--output", tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("source", "message"),
    [("missing", "does not exist"), ("a.dcm", "a file, not a folder"), ("link", "does not exist")],
)
def test_a_source_that_is_no_folder_is_told_for_what_it_is(checkpoint, tmp_path, monkeypatch, source, message):
    write_source(tmp_path / "source", 1)
    (tmp_path / "a.dcm").write_bytes(dicom_file())
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=message):
        run_here(monkeypatch, checkpoint, tmp_path / source, "--output", tmp_path / "x.csv")
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("notes.txt", b"Exported on a Friday.", 0),
        ("ID_0.npz", b"PK\3\4" + bytes(22) + b"\5\0\0\0a.npy", 0),
        ("scout", dicom_file(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), 0),
        ("IM7", b"<html>404</html>", 3),
        ("IM7.dcm", dicom_file()[:400], 3),
    ],
)
def test_a_stray_file_hides_no_slice_and_is_named(checkpoint, tmp_path, monkeypatch, capsys, name, content, code):
    source = write_source(tmp_path / "source", 2)
    (source / name).write_bytes(content)
    assert run_here(monkeypatch, checkpoint, source, "--output", tmp_path / "x.csv") == code
    assert len(read(tmp_path / "x.csv")) == 2 * len(LABELS)
    assert name in capsys.readouterr().out


def test_a_data_set_keeps_its_pseudonyms(tmp_path):
    dataset = DataSet.open(str(make_dataset(tmp_path / "data", samples=7)))
    where = make_checkpoint(tmp_path / "run", dataset=dataset)
    settings = settings_of(PredictConfig(str(where), ""))
    outcome = predict_dataset(settings, dataset, lambda event: None)
    assert outcome.keys == dataset.index.column("key").to_pylist()
    assert outcome.studies == dataset.index.column("study").to_pylist()
    assert outcome.probability.shape == (7, 6)
    assert pq.read_table(tmp_path / "data" / "rejected.parquet").num_rows == len(outcome.rejected) == 0


def test_a_corrupt_sample_is_a_rejection_and_moves_no_other(tmp_path):
    dataset = DataSet.open(str(make_dataset(tmp_path / "data", samples=7)))
    where = make_checkpoint(tmp_path / "run", dataset=dataset)
    settings = settings_of(PredictConfig(str(where), "", explain=str(tmp_path / "whole")))
    whole = predict_dataset(settings, dataset, lambda event: None)
    tar = tmp_path / "data" / "shards" / f"{dataset.column('shard')[3]:06d}.tar"
    content = bytearray(tar.read_bytes())
    content[dataset.column("offset")[3] + 100] ^= 1
    tar.write_bytes(content)
    settings = settings_of(PredictConfig(str(where), "", explain=str(tmp_path / "heat")))
    outcome = predict_dataset(settings, DataSet.open(str(tmp_path / "data")), lambda event: None)
    assert outcome.keys == [key for row, key in enumerate(whole.keys) if row != 3]
    np.testing.assert_allclose(outcome.probability, np.delete(whole.probability, 3, axis=0), atol=1e-6)
    assert outcome.rejected == [(whole.keys[3], "corrupt", "not what its checksum says")]
    for key in outcome.keys:
        pictures = [np.asarray(Image.open(tmp_path / folder / f"{key}.png"), float) for folder in ("heat", "whole")]
        assert np.abs(pictures[0] - pictures[1]).mean() < 1  # grey levels: the same slice, the same map


def test_a_data_set_is_predicted_in_one_process_and_what_is_written_never_lies_in_the_source(tmp_path, monkeypatch):
    dataset = DataSet.open(str(make_dataset(tmp_path / "data", samples=7)))
    where = make_checkpoint(tmp_path / "run", dataset=dataset)
    with pytest.raises(ConfigError, match="leave --workers out"):
        run_here(monkeypatch, where, dataset.store.uri, "--workers", "2", "--output", tmp_path / "x.csv")
    source = write_source(tmp_path / "source", 2)
    for flags in (["--output", source / "x.csv"], ["--output", tmp_path / "x.csv", "--explain", source / "heat"]):
        with pytest.raises(ConfigError, match=r"lies in the source .*; choose a folder outside it"):
            run_here(monkeypatch, where, source, *flags)
    assert not (source / "x.csv").exists()
    assert not (source / "heat").exists()


def test_study_and_series_are_pseudonyms_that_are_the_same_each_time(tmp_path):
    source = write_source(tmp_path / "source", 3)
    uids = {
        str(dcmread(path)[tag].value)
        for path in source.rglob("*.dcm")
        for tag in ("StudyInstanceUID", "SeriesInstanceUID")
    }
    sharding = {"size": 32, "windows": [{"name": "brain"}], "encoding": "jpeg", "quality": 95, "crop_head": False}
    once, again = (chunks(str(source))[0](sharding) for _ in range(2))
    assert [(one.study, one.series) for one in once] == [(one.study, one.series) for one in again]
    names = {name for one in once for name in (one.study, one.series) if name is not None}
    assert names
    assert not any(uid in name for uid in uids for name in names)


def test_files_of_one_name_in_several_folders_each_lead_to_their_probability(checkpoint, tmp_path, monkeypatch, capsys):
    paths = ["left ward/1-01.dcm", "right ward/1-01.dcm", "1.2.3/IM.1", "1.2.3/IM.2", "1.2.4/IM.1"]
    made = sorted(write_source(tmp_path / "made", len(paths)).rglob("*.dcm"))
    for path, file in zip(paths, made, strict=True):
        (tmp_path / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        file.rename(tmp_path / "source" / path)
    assert run_here(monkeypatch, checkpoint, tmp_path / "source", "--output", tmp_path / "s.csv") == 0
    found = table(tmp_path / "s.csv")
    files = read(tmp_path / "s.files.csv")
    assert sorted(row["path"] for row in files) == sorted(paths)
    for row in files:
        assert [float(row[label]) for label in LABELS] == found[row["ID"]]
    assert found.keys() == {path.removesuffix(".dcm") for path in paths}
    html = (tmp_path / "s.html").read_text()
    assert sum(path in html for path in paths) >= 3  # of a study the page shows the most suspicious
    assert "For research, not a medical device." in html
    said = capsys.readouterr().out
    assert "was trained on" in said
    assert "For research, not a medical device." in said
    assert json.loads((tmp_path / "s.about.json").read_text())["networks"][0]["step"] == 7
