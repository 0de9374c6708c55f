"""The page of a prediction: the highest P(any) first, what the network was trained on, and what is no finding."""

from __future__ import annotations

import numpy as np
import pytest

from hemodist.metrics.probabilities import repair_any
from hemodist.models.trained import open_trained
from hemodist.predict.new_slices import PredictedSlices
from hemodist.predict.page import SLICES_EACH, STUDIES_PICTURED, about_lines, page, pictured, ranked, trained_on
from hemodist.predict.pictures import SlicePicture
from hemodist.reports.verdict import SYNTHETIC
from tests.support.checkpoints import SHARDING, make_checkpoint

ROW = {
    "epoch": 1, "step": 7, "train_loss": 0.3, "valid_loss": 0.3, "weighted_log_loss": 0.25, "auc_any": 0.8125,
    "accuracy_multi": 0.9, "seconds": 1.0, "images_per_s": 40.0, "lr": 1e-3,
}  # fmt: skip
STATE = {"dataset": "abc", "split": "", "seed": 0, "step": 7, "history": [ROW]}


def predictions(studies: int = 20, each: int = 5) -> PredictedSlices:
    n = studies * each
    probability = np.full((n, 6), 0.05)
    probability[:, 0] = np.random.default_rng(0).permutation(n) / n
    keys = [f"k{i:03d}" for i in range(n)]
    of = [f"study{i // each:02d}" for i in range(n)]
    return PredictedSlices(keys, keys, [f"in/{key}.dcm" for key in keys], list(of), list(of), probability, [])


def about(tmp_path, found: PredictedSlices, *, synthetic: bool, repaired: bool = False):
    where = make_checkpoint(tmp_path / "run", sharding=SHARDING | {"synthetic": synthetic}, state=STATE)
    return trained_on([open_trained(str(where))], found, repaired)


def a_picture(*, empty: bool = False) -> SlicePicture:
    heat = np.zeros((32, 32), np.float32)
    if not empty:
        heat[8:12, 8:12] = 1
    return SlicePicture(np.full((32, 32, 3), 90, np.uint8), heat, ["brain 40/80", "subdural 80/200", "soft 40/380"])


def test_studies_are_ranked_by_their_highest_p_any_and_slices_within_them_too():
    found = predictions()
    highest = [found.probability[list(study.rows), 0] for study in ranked(found)]
    assert [values.max() for values in highest] == sorted((values.max() for values in highest), reverse=True)
    for values in highest:
        assert list(values) == sorted(values, reverse=True)
    assert len(pictured(found)) == STUDIES_PICTURED * SLICES_EACH
    assert sum(len(study.rows) for study in ranked(found)) == len(found.keys)


def test_the_page_names_files_training_and_empty_maps_and_is_no_medical_device(tmp_path):
    found = predictions()
    shown = pictured(found)
    pictures = {key: a_picture(empty=key == shown[0]) for key in shown}
    html = page(found, pictures, about(tmp_path, found, synthetic=True))
    assert "For research, not a medical device." in html
    assert "synthetic phantom data: no statement on medical performance" in html
    assert "auc_any 0.8125" in html
    assert html.count("data:image/jpeg") == len(shown)
    assert html.count("The map is empty") == 1
    for key in shown:
        assert f"in/{key}.dcm" in html
    assert "http" not in html


def test_a_network_of_real_slices_carries_no_banner_and_no_prediction_is_a_page_too(tmp_path):
    nothing = PredictedSlices([], [], [], [], [], np.empty((0, 6)), [("a", "not_dicom", "")])
    html = page(nothing, {}, about(tmp_path, nothing, synthetic=False))
    assert "synthetic" not in html
    assert "1 files without a prediction" in html


def test_why_there_are_no_pictures_is_said(tmp_path):
    found = predictions(2)
    html = page(found, {}, about(tmp_path, found, synthetic=False), "vit has no layer for it")
    assert "No pictures: vit has no layer for it" in html


def test_p_any_below_a_subtype_is_counted_and_said_and_none_is_left_after_repair(tmp_path):
    found = predictions(2)
    found.probability[:3, 0], found.probability[:3, 4] = 0.2, 0.6
    found.probability[3:, 0] = 0.9
    said = about(tmp_path, found, synthetic=False)
    assert said["p_any_below_a_subtype"] == 3
    assert any("in 3 of 10 slices" in line for line in about_lines(said))
    found.probability[:] = repair_any(found.probability)
    said = about(tmp_path, found, synthetic=False, repaired=True)
    assert said["p_any_below_a_subtype"] == 0
    assert any("was raised" in line for line in about_lines(said))


def test_hostile_names_never_become_tags(tmp_path):
    found = predictions(1, 2)
    found.paths[:] = ["<img src=x>.dcm", "<script>"]
    html = page(found, {key: a_picture() for key in pictured(found)}, about(tmp_path, found, synthetic=False))
    assert "<img src=x>" not in html
    assert "<script>" not in html


@pytest.mark.parametrize("synthetic", [True, False])
def test_terminal_and_page_say_of_a_network_trained_on_phantoms_and_of_no_other_that_it_was(tmp_path, synthetic):
    found = predictions()
    said = about(tmp_path, found, synthetic=synthetic)
    lines = about_lines(said)
    assert (lines[0] == SYNTHETIC) is synthetic
    assert ("(synthetic phantoms)" in " ".join(lines)) is synthetic
    assert (SYNTHETIC in page(found, {}, said)) is synthetic
