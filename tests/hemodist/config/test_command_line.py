"""A recipe's fields are flags; what is not given stays as the recipe has it."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import pytest

from hemodist.config.command_line import Read, read_flags, read_recipe
from hemodist.config.fields import Often, fields_of
from hemodist.config.range_test import RangeTest
from hemodist.config.recipes import RECIPES, alexnet, resnet18
from hemodist.config.run import Run
from hemodist.errors import ConfigError
from hemodist.study.options import Study


@pytest.mark.parametrize("config", [*(recipe() for recipe in RECIPES), RangeTest(alexnet()), Study()])
def test_without_flags_it_is_the_same(config):
    assert read_flags(config, None, "job", []) == config


def test_a_flag_changes_its_field_and_no_other():
    flags = ["--optim.lr", "found", "--data.valid_fold=3", "--data.subset", "None", "--scaling.deterministic"]
    flags += ["--batch.label-weights", *"123456", "--model.no-compile", "--name", "mine"]
    start = replace(resnet18(), data=replace(resnet18().data, subset=1500))
    changed = read_flags(start, None, "job", flags)
    assert changed == replace(
        start,
        name="mine",
        data=replace(start.data, valid_fold=3, subset=None),
        batch=replace(start.batch, label_weights=(1, 2, 3, 4, 5, 6)),
        optim=replace(start.optim, lr="found"),
        scaling=replace(start.scaling, deterministic=True),
    )


def test_a_range_test_has_the_flags_of_its_run_and_its_own():
    changed = read_flags(
        RangeTest(alexnet()), None, "job", ["--steps", "40", "--optim.epochs", "9", "--smoothing", "2"]
    )
    run = replace(alexnet(), optim=replace(alexnet().optim, epochs=9))
    assert changed == RangeTest(run, steps=40, smoothing=2.0)


def read(monkeypatch, *arguments: str) -> Read[Run]:
    monkeypatch.setattr(sys, "argv", ["job", *arguments])
    return read_recipe("What it does.", "--example 1", lambda run: run)


def test_what_people_change_comes_first_with_what_must_be_given_before_all(monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        read(monkeypatch, "resnet18", "--help")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    first, _, rest = said.partition("advanced: data options")
    often = [field for field in fields_of(resnet18()) if any(isinstance(note, Often) for note in field.notes)]
    assert 10 <= len(often) <= 14
    for field in fields_of(resnet18()):
        assert f"--{field.name.replace('_', '-')}" in (first if field in often else rest)
    assert "Example: python job resnet18 --data.dataset rsna-256 --example 1" in first
    assert first.count("(required)") == 1
    assert rest.count("(required)") == 0
    assert first.index("--data.dataset STR") < first.index("(required)") < first.index("--name STR")


def test_every_field_says_what_it_means(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        read(monkeypatch, "resnet18", "--help")
    lines = [line.strip("│| ") for line in capsys.readouterr().out.splitlines()]  # frames are of either kind
    after = [lines[i + 1] for i, line in enumerate(lines) if re.match("--[a-z]", line)]
    assert len(after) == sum(1 for _ in fields_of(resnet18()))
    assert all(text and not text.startswith(("--", "(default")) for text in after)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["resnet19", "--no-such-flag"], r"no recipe resnet19; did you mean resnet18\? .* densenet161"),
        (["alexnet-cutmix"], "did you mean alexnet_cutmix"),
        (["nothing-like-it"], r"no recipe nothing-like-it\. The recipes are demo, "),
        (["--seed", "1", "resnet18"], "the recipe must come first"),
        ([], "the recipe must come first"),
    ],
)
def test_a_wrong_recipe_is_told_before_anything_else(given, said, monkeypatch):
    with pytest.raises(ConfigError, match=said):
        read(monkeypatch, *given)


def test_shells_can_complete_the_flags_of_all_recipes(monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        read(monkeypatch, "--tyro-print-completion", "bash")
    assert not ended.value.code
    script = capsys.readouterr().out
    assert "--data.valid-fold" in script
    assert "densenet161_cutmix" in script
