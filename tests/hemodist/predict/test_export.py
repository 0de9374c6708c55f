from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from hemodist.dataset.digest import sha256
from hemodist.dataset.labels import LABELS
from hemodist.models.trained import open_trained
from hemodist.predict import export
from tests.support.checkpoints import make_checkpoint


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    trained = open_trained(str(make_checkpoint(folder / "run")))
    export.export(trained, str(folder / "out"))
    return trained, folder / "out"


def test_the_program_gives_the_checkpoints_logits_for_any_batch(exported):
    trained, folder = exported
    program = torch.export.load(folder / "model.pt2").module()
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            assert torch.allclose(program(images), trained.network(images), atol=1e-4)


def test_the_onnx_model_gives_the_checkpoints_logits_for_any_batch(exported):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    from onnx.reference import ReferenceEvaluator

    trained, folder = exported
    evaluator = ReferenceEvaluator(onnx.load(folder / "model.onnx"))
    for batch in (1, 4):
        images = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            expected = trained.network(images).numpy()
        assert np.allclose(evaluator.run(None, {"images": images.numpy()})[0], expected, atol=1e-3)


def test_the_description_names_labels_normalisation_and_files(exported):
    trained, folder = exported
    described = json.loads((folder / "model.json").read_text())
    assert described["labels"] == list(LABELS)
    assert described["input"]["shape"] == ["batch", 3, 32, 32]
    assert described["pictures"]["windows"] == trained.sharding["windows"]
    assert described["step"] == 7
    for name, facts in described["files"].items():
        assert sha256((folder / name).read_bytes()) == facts["sha256"]
        assert facts["largest difference of a logit"] <= export.TOLERANCE


def test_an_export_that_differs_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    trained = open_trained(str(make_checkpoint(tmp_path / "run")))
    monkeypatch.setattr(export, "_program", lambda network, example, path: lambda images: images[:, 0, 0, :6])
    with pytest.raises(export.ExportError, match="differs from the checkpoint by"):
        export.export(trained, str(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("model*"))


def test_an_export_that_fails_at_its_second_format_leaves_the_earlier_export_whole(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    out = tmp_path / "out"
    out.mkdir()
    before = dict.fromkeys(("model.pt2", "model.onnx", "model.json"), b"of the earlier export")
    for name, content in before.items():
        (out / name).write_bytes(content)
    monkeypatch.setattr(export, "_onnx", lambda network, example, path: lambda images: images[:, 0, 0, :6])
    with pytest.raises(export.ExportError, match="nothing was written"):
        export.export(open_trained(str(make_checkpoint(tmp_path / "second", seed=1))), str(out))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
