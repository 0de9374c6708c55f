"""The pointing game as a person plays it: train on one synthetic data set, point on another one with truth masks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import CHECKOUT

pytestmark = pytest.mark.faults


def run(folder: Path, *command: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(3000)
def test_the_heat_maps_peak_lies_on_the_hemorrhage_in_most_true_positives_of_unseen_patients(tmp_path):
    small = ("--size", 128, "--samples-per-shard", 256, "--synthetic", "--workers", 0)
    for seed, name in ((0, "train"), (1, "unseen")):
        run(CHECKOUT, "-m", "shards", "phantom", tmp_path / f"{name}_dicom", "--seed", seed, "--masks")
        source = tmp_path / f"{name}_dicom" / "stage_2_train"
        run(tmp_path, CHECKOUT / "jobs/shard.py", "--source", source, "--output", tmp_path / name, *small)
    flags = ("--data.dataset", "train", "--output", "runs", "--scaling.workers", 0, "--tracking.mode", "disabled")
    run(tmp_path, CHECKOUT / "jobs/train.py", "demo", *flags)
    said = run(tmp_path, CHECKOUT / "jobs/evaluate.py", "runs/demo", tmp_path / "unseen", "--output", tmp_path / "out",
               "--masks", tmp_path / "unseen_dicom" / "masks")  # fmt: skip
    pointing = json.loads((tmp_path / "out" / "metrics.json").read_text())["pointing"]
    assert pointing["cases"] > 50
    assert pointing["share"]["value"] >= 0.70
    assert pointing["chance"] < 0.05
    assert "The heat map's peak lies on the hemorrhage" in said
    assert "true positives" in (tmp_path / "out" / "report.html").read_text()
