"""A recipe's learning rate follows the batch where the command line changes the batch and not the rate."""

from __future__ import annotations

import sys

import pytest

from hemodist.config.batch_rule import follow_batch, lr_line
from hemodist.config.command_line import read_recipe
from hemodist.config.run import Run
from hemodist.study.options import Study


def read(monkeypatch, *words: str) -> tuple[Run, str]:
    monkeypatch.setattr(sys, "argv", ["job", *words])
    read = read_recipe(None, "", lambda run: run)
    return follow_batch(read.config, read.recipe, read.given)


@pytest.mark.parametrize(
    ("words", "lr"),
    [
        (["resnet18", "--batch.global-batch-size", "256"], 2e-3),  # sqrt(256 / 64) is 2
        (["resnet18", "--batch.global_batch_size=16"], 5e-4),
        (["resnet18", "--batch.global-batch-size", "256", "--optim.name", "sgd"], 4e-3),
        (["strong", "--batch.global-batch-size", "64"], 1e-4),  # its own is 2e-4 at 256
    ],
)
def test_a_rate_that_is_not_given_follows_the_batch(words, lr, monkeypatch):
    run, said = read(monkeypatch, *words)
    assert run.optim.lr == pytest.approx(lr, rel=1e-12)
    assert said


@pytest.mark.parametrize(
    ("words", "lr"),
    [
        (["resnet18"], 1e-3),
        (["resnet18", "--batch.global-batch-size", "64"], 1e-3),
        (["resnet18", "--batch.global-batch-size", "256", "--optim.lr", "1e-3"], 1e-3),  # the recipe's own, but given
        (["resnet18", "--optim.lr=3e-3", "--batch.global-batch-size=256"], 3e-3),
        (["resnet18", "--batch.accumulate", "4"], 1e-3),
        (["alexnet_lr_found", "--batch.global-batch-size", "256"], "found"),  # which is found for that batch
        (["resnet18", "--batch.global-batch-size", "0"], 1e-3),  # which `check` refuses
    ],
)
def test_a_rate_that_is_given_or_found_or_for_this_batch_stays(words, lr, monkeypatch):
    run, said = read(monkeypatch, *words)
    assert run.optim.lr == lr
    assert not said


def test_the_same_command_has_the_same_rate_to_the_bit(monkeypatch):
    words = ("densenet161", "--batch.global-batch-size", "2048")
    assert read(monkeypatch, *words)[0].optim.lr == read(monkeypatch, *words)[0].optim.lr


def test_the_table_says_the_rate_and_the_rule(monkeypatch):
    assert lr_line(*read(monkeypatch, "resnet18")) == "0.001"
    assert lr_line(*read(monkeypatch, "resnet18", "--batch.global-batch-size", "128")) == (
        "0.001414, the recipe's 0.001 times sqrt(128 / 64), since another batch is given and no optim.lr"
    )
    sgd = read(monkeypatch, "resnet18", "--batch.global-batch-size", "128", "--optim.name", "sgd")
    assert "0.001 times 128 / 64," in lr_line(*sgd)


def test_a_studys_recipes_follow_its_batch_too():
    study = Study(recipes=("resnet18", "alexnet", "alexnet_lr_found"), seeds=(0, 1), global_batch_size=16)
    assert [run.optim.lr for run in study.runs()] == [5e-4, 5e-5, "found"] * 2
    assert study.rates()["alexnet_lr_found"] == "to be found"
    assert study.rates()["alexnet"].startswith("5e-05, the recipe's 0.0001 times sqrt(16 / 64)")
    assert {run.optim.lr for run in Study(recipes=("resnet18",)).runs()} == {1e-3}
