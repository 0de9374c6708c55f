"""The synthetic data set as a whole: layout, determinism, truth."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pydicom
import pytest

from hemodist.dataset.labels import LABELS
from hemodist.errors import UserError
from shards.building.series import MIN_BRAIN
from shards.dicom.read import Slice, read_slice
from shards.phantom.anatomy import SUBTYPES, draw_subject, masks_of, render
from shards.phantom.generate import ROW_ORDER, generate, plan_of
from shards.phantom.lesions import MIN_AREA
from shards.phantom.scanner import SCANNERS, encode
from shards.picture.geometry import brain_fraction

SLICES, SEED, SIZE = 60, 3, 96


def everything(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "data"
    summary = generate(out, slices=SLICES, seed=SEED, size=SIZE, workers=1)
    assert summary.slices == SLICES
    assert summary.images == out / "stage_2_train"
    return out


def read_table(data: Path) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    with (data / "stage_2_train.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            slice_id, name = row["ID"].rsplit("_", 1)
            found.setdefault(slice_id, {})[name] = int(row["Label"])
    return found


def test_bytes_do_not_depend_on_the_number_of_processes(data: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    generate(tmp_path, slices=SLICES, seed=SEED, size=SIZE, workers=2, progress=lambda n, of: seen.append((n, of)))
    assert everything(tmp_path) == everything(data)
    assert seen[-1] == (SLICES, SLICES)


def test_layout_is_rsna_s_with_six_rows_a_slice(data: Path) -> None:
    lines = (data / "stage_2_train.csv").read_text().splitlines()
    assert lines[0] == "ID,Label"
    assert len(lines) == 1 + 6 * SLICES
    names = [line.split(",")[0].rsplit("_", 1)[1] for line in lines[1:7]]
    assert names == ["epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any"]
    table = read_table(data)
    assert {p.name for p in (data / "stage_2_train").iterdir()} == {f"{x}.dcm" for x in table}
    assert len(everything(data)) == SLICES + 1
    assert all(set(row) == set(LABELS) for row in table.values())
    assert all(row["any"] == max(row[x] for x in SUBTYPES) for row in table.values())


def test_identifiers_have_rsna_s_form_and_one_patient_one_study(data: Path) -> None:
    patients: dict[str, set[tuple[str, str]]] = {}
    places: dict[str, list[float]] = {}
    for path in (data / "stage_2_train").iterdir():
        with pydicom.config.disable_value_validation():
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            assert ds.SOPInstanceUID == path.stem
            assert [len(x) for x in (path.stem, ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID)] == [
                12,
                11,
                13,
                13,
            ]
            patients.setdefault(ds.PatientID, set()).add((ds.StudyInstanceUID, ds.SeriesInstanceUID))
            places.setdefault(ds.PatientID, []).append(float(ds.ImagePositionPatient[2]))
    assert all(len(x) == 1 for x in patients.values())
    assert all(20 <= len(z) <= 60 for z in places.values())
    for z in places.values():
        gaps = np.diff(sorted(z))
        np.testing.assert_allclose(gaps, gaps[0], atol=1e-5)


def test_a_finished_folder_stays_the_same_and_another_one_is_refused(data: Path, tmp_path: Path) -> None:
    generate(tmp_path, slices=5, seed=1, size=64, workers=1)
    before = everything(tmp_path)
    generate(tmp_path, slices=5, seed=1, size=64, workers=1)
    assert everything(tmp_path) == before
    for other in ({"slices": 6, "seed": 1, "size": 64}, {"slices": 5, "seed": 2, "size": 64}, {"slices": 5, "seed": 1}):
        with pytest.raises(UserError, match="something else"):
            generate(tmp_path, workers=1, **other)
    assert everything(tmp_path) == before


def test_a_killed_call_s_leftovers_are_completed_to_the_same_bytes(tmp_path: Path) -> None:
    generate(tmp_path / "a", slices=4, seed=1, size=64, workers=1)
    whole = everything(tmp_path / "a")
    images = sorted(name for name in whole if name.endswith(".dcm"))
    half = tmp_path / "b" / "stage_2_train"
    half.mkdir(parents=True)
    (half / Path(images[0]).name).write_bytes(whole[images[0]][:100])
    (half / f"{Path(images[1]).name}.0123456789abcdef.partial").write_bytes(b"half")
    generate(tmp_path / "b", slices=4, seed=1, size=64, workers=1)
    assert everything(tmp_path / "b") == whole


@pytest.mark.parametrize("bad", [{"slices": 0}, {"seed": -1}, {"size": 8}, {"workers": 0}])
def test_arguments_out_of_range_are_refused_before_anything_is_written(tmp_path: Path, bad: dict[str, int]) -> None:
    with pytest.raises(UserError):
        generate(tmp_path / "out", **bad)
    assert not (tmp_path / "out").exists()


def test_labels_are_1_where_the_written_mask_is_not_empty(tmp_path: Path) -> None:
    generate(tmp_path, slices=30, seed=SEED, size=64, workers=1, masks=True)
    table = read_table(tmp_path)
    written = {p.stem for p in (tmp_path / "masks").iterdir()}
    assert written == {x for x, row in table.items() if row["any"]}
    assert 0 < len(written) < 30
    for patient, names in zip(*plan_of(SEED, 30, 64), strict=True):
        subject = draw_subject(patient, SEED, 64)
        for k, name in enumerate(names):
            masks = masks_of(subject, k)
            assert [int(mask.any()) for mask in masks] == [table[name.slice_id][label] for label in SUBTYPES]
            if name.slice_id in written:
                stored = np.load(tmp_path / "masks" / f"{name.slice_id}.npz")["masks"]
                np.testing.assert_array_equal(stored, masks)


def test_hemorrhages_have_the_density_of_fresh_blood_and_a_visible_area() -> None:
    patients, _ = plan_of(0, 1500)
    seen: dict[str, list[float]] = {name: [] for name in SUBTYPES}
    for patient in patients:
        wanted = {x.subtype for x in patient.lesions} - {name for name, found in seen.items() if len(found) >= 6}
        if not wanted:
            continue
        subject = draw_subject(patient, 0, 256)
        for k in range(0, patient.count, 4):
            if not masks_of(subject, k).any():
                continue
            hu, masks = render(subject, k)
            for name, mask in zip(SUBTYPES, masks, strict=True):
                if mask.any():
                    assert mask.sum() * subject.scan.spacing**2 >= MIN_AREA
                    seen[name].append(float(hu[mask].mean()))
    for name, means in seen.items():
        assert means, name
        assert 50.0 <= float(np.mean(means)) <= 80.0, (name, means)


def test_a_head_holds_air_bone_brain_and_fluid_in_ct_s_units() -> None:
    patients, _ = plan_of(0, 1500)
    healthy = next(p for p in patients if not p.lesions)
    hu, masks = render(draw_subject(healthy, 0, 256), healthy.count // 2)
    assert not masks.any()
    assert abs(float(np.median(hu[:20, :20])) + 1000) < 10
    assert float(np.percentile(hu, 99.5)) > 700
    middle = hu[96:160, 96:160]
    assert 22 < float(np.median(middle)) < 42


def test_ctrl_c_ends_every_process_and_leaves_no_half_written_file(tmp_path: Path) -> None:
    code = (
        "import signal, sys; from pathlib import Path; from shards.phantom.generate import generate\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    report = lambda n, _: print(n, flush=True)\n"
        "    generate(Path(sys.argv[1]), slices=2000, seed=1, size=64, workers=2, progress=report)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    run = subprocess.Popen(  # in a group of its own, as a shell starts it
        [sys.executable, str(script), str(tmp_path / "out")],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert run.stdout is not None
    assert int(run.stdout.readline()) > 0
    children = psutil.Process(run.pid).children(recursive=True)
    assert len(children) >= 2
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(timeout=20) != 0
    run.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert not (tmp_path / "out" / "stage_2_train.csv").exists()
    left = list((tmp_path / "out").rglob("*.dcm"))
    assert 0 < len(left) < 2000
    assert {len(pydicom.dcmread(p, defer_size=1).PixelData) for p in left[:20]} == {64 * 64 * 2}


def test_rows_name_the_labels_of_the_contract() -> None:
    assert sorted(ROW_ORDER) == sorted(LABELS)


def test_no_series_of_the_demo_s_data_set_is_without_brain() -> None:
    patients, names = plan_of(0, 1500)
    assert {p.monochrome1 for p in patients} == {False, True}
    for patient, of_patient in zip(patients, names, strict=True):
        subject = draw_subject(patient, 0, 96)
        scanner, k = SCANNERS[patient.scanner], patient.count // 2
        hu, _ = render(subject, k)
        found = read_slice(encode(hu, scanner, subject.scan, k, of_patient[k], monochrome1=patient.monochrome1))
        assert isinstance(found, Slice)
        brain = brain_fraction(found.stored, found.slope, found.intercept)
        assert brain > 5 * MIN_BRAIN, (patient.number, scanner.name, patient.monochrome1)
