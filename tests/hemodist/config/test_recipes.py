"""Every recipe trains; its network is torchvision's."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from hemodist.config.data import BatchConfig
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.config.recipes import RECIPES
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig
from hemodist.models import network
from hemodist.plan.prepare import prepare
from hemodist.storage.store import Store, join
from hemodist.training.found_lr import RESULT, FoundLr, origin_of, with_found_lr
from hemodist.training.loop import Training
from hemodist.training.lr_curve import Reading
from hemodist.world import World
from tests.support.dataset import make_dataset

WANTED = {
    "resnet18",
    "alexnet",
    "alexnet_lr_found",
    "resnet34",
    "resnet34_silu",
    "resnet50",
    "resnet101",
    "resnet152",
    "densenet121",
    "densenet161",
    "densenet161_cutmix",
    "alexnet_cutmix",
    "alexnet_transpose",
    "alexnet_more",
    "strong",
    "debug",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    make_dataset(folder / "data", samples=24, patients=12, per_shard=12)
    return folder


def reduced(run: Run, folder: Path) -> Run:
    """The same run on tiny images of a tiny data set, for an epoch, in this process, without downloads."""
    size = 64 if run.model.name == "alexnet" else 32
    run = replace(
        run,
        output=str(folder / "runs"),
        data=replace(run.data, dataset=str(folder / "data"), decode_threads=1, valid_fold=0),
        batch=BatchConfig(global_batch_size=8, mix_group=4, eval_batch_size=16),
        model=replace(run.model, image_size=size, weights="none"),
        optim=replace(run.optim, epochs=1, warmup_steps=1),
        scaling=ScalingConfig(workers=0),
        tracking=TrackingConfig(mode="disabled"),
    )
    prepared = prepare(run)
    if run.optim.lr == "found":
        found = FoundLr(Reading("", 1e-4, 1e-4, 1e-4, 1e-4), [1e-4], [0.5], [0.5], origin_of(run, prepared))
        Store.open(join(run.output, run.name)).write(RESULT, json.dumps(asdict(found)).encode())
    return with_found_lr(run, prepared)


def test_every_system_has_its_recipe():
    assert {recipe.__name__ for recipe in RECIPES} >= WANTED


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_every_recipe_trains_an_epoch(recipe, folder):
    training = Training(reduced(recipe(), folder), World.alone(), lambda event: None)
    before = [p.detach().clone() for p in training.learner.network.parameters()]
    for batch in training.batches():
        training.update(batch)
    assert training.step == training.total >= 2
    assert training.divergence.skipped == 0
    training.validate(training.epoch_ended())
    row = training.history[0]
    assert np.isfinite([row["train_loss"], row["valid_loss"], row["accuracy_multi"]]).all()
    assert ("raw_weighted_log_loss" in row) == (training.run.model.ema_decay > 0)
    changed = [
        not torch.equal(old, new) for old, new in zip(before, training.learner.network.parameters(), strict=True)
    ]
    assert sum(changed) > 0.9 * len(changed)


CONFIGS = {recipe().model.name: recipe().model for recipe in RECIPES}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_forward_pass_agrees_with_torchvisions_own_network(name):
    size = 64 if name == "alexnet" else 32
    torch.manual_seed(0)  # a deep network's logits reach 1e5, and by some draws of weights one cancels to nearly 0
    ours = network.build_network(ModelConfig(name=name)).eval()
    theirs = torchvision.models.get_model(name, weights=None, num_classes=6).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


def test_the_scale_of_any_recipe_is_a_flag(tmp_path):
    make_dataset(tmp_path / "data", samples=200, patients=40)
    run = replace(RECIPES[0](), data=replace(RECIPES[0]().data, dataset=str(tmp_path / "data"), valid_fold=0))
    whole = prepare(run)
    balanced = prepare(replace(run, data=replace(run.data, selection="balanced")))
    small = prepare(replace(run, data=replace(run.data, subset=60)))
    rows = np.concatenate([balanced.split.train, balanced.split.valid])
    answers = balanced.labels[rows, 0]
    assert (answers == 1).sum() == (whole.labels[:, 0] == 1).sum()
    assert (answers == 0).sum() == (answers == 1).sum()
    assert len(small.split.train) + len(small.split.valid) == 60
    assert len(whole.split.train) + len(whole.split.valid) == 200
