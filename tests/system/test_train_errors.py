"""What cannot work is said before any worker starts."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import ray

from hemodist.config.recipes import RECIPES
from hemodist.models.pretrained import published
from tests.support.dataset import make_dataset

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("errors") / "dataset")


@pytest.fixture
def run_train(monkeypatch, capfd, tmp_path):
    """Run `jobs/train.py` in this process; returns exit code and everything printed."""

    def no_start(*arguments, **options):
        pytest.fail("Ray was started")

    monkeypatch.setattr(ray, "init", no_start)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["jobs/train.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(JOBS / "train.py"), run_name="__main__")
        out, err = capfd.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 1), out + err

    return run


def test_a_data_set_without_manifest(run_train, dataset, tmp_path):
    code, said = run_train("resnet18", "--data.dataset", tmp_path / "nothing")
    assert code == 2
    assert "manifest.json does not exist" in said
    assert "jobs/shard.py" in said


def test_no_data_set_at_all(run_train):
    code, said = run_train("resnet18")
    assert code == 2
    assert "--data.dataset" in said


def test_an_unknown_recipe(run_train, dataset):
    code, said = run_train("resnet19", "--data.dataset", dataset)
    assert code == 2
    assert "resnet19" in said
    assert "resnet18" in said


def test_an_unknown_flag(run_train, dataset):
    code, said = run_train("resnet18", "--data.dataset", dataset, "--optim.learning-rate", "1")
    assert code == 2
    assert "--optim.learning-rate" in said


def test_a_batch_size_that_cannot_be_dealt_out(run_train, dataset):
    code, said = run_train("resnet18", "--data.dataset", dataset, "--batch.global-batch-size", "1001")
    assert code == 2
    assert "not a multiple of mix_group 8; use 1000 or 1008" in said


def test_too_few_mix_groups_for_the_workers(run_train, dataset):
    code, said = run_train("resnet18", "--data.dataset", dataset, "--scaling.workers", "9")
    assert code == 2
    assert "too few for 9 workers; use global_batch_size 72" in said


def test_more_gpus_than_there_are(run_train, dataset, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    code, said = run_train("resnet18", "--data.dataset", dataset, "--scaling.device", "cuda", "--model.weights", "none")
    assert code == 2
    assert "need 2 GPUs, one each, and there are 1" in said


def test_an_output_that_cannot_be_written(run_train, dataset, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, said = run_train("resnet18", "--data.dataset", dataset, "--output", tmp_path / "file")
    assert code == 2
    assert "cannot write" in said
    assert "file/resnet18" in said


def test_a_network_that_does_not_exist(run_train, dataset):
    code, said = run_train("resnet18", "--data.dataset", dataset, "--model.name", "resnet19")
    assert code == 2
    assert "no classification network of torchvision" in said


def test_a_subset_larger_than_the_data_set(run_train, dataset):
    code, said = run_train("resnet18", "--data.dataset", dataset, "--data.subset", "1500")
    assert code == 2
    assert "data.subset 1500 needs 1238 train slices" in said


@pytest.mark.parametrize(
    "recipe", [recipe for recipe in RECIPES if recipe().model.weights != "none"], ids=lambda recipe: recipe.__name__
)
def test_without_a_network_every_recipe_says_in_one_line_how_to_get_its_weights(
    recipe, run_train, dataset, monkeypatch, tmp_path
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens
    flags = ["--data.dataset", dataset, "--optim.lr", "1e-4", "--batch.global-batch-size", "64"]
    code, said = run_train(recipe.__name__, *flags)
    assert code == 2
    (line,) = said.splitlines()
    source = published(recipe().model)
    assert source.url.startswith("https://")
    for text in (source.name, f"fetch {source.url} elsewhere", "--model.weights PATH", "--model.weights none"):
        assert text in line
