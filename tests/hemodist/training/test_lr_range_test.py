"""The range test against a grid of whole short trainings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hemodist.config.data import BatchConfig
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.config.range_test import RangeTest, check
from hemodist.config.recipes import alexnet
from hemodist.config.run import Run
from hemodist.errors import ConfigError
from hemodist.launch.find_lr import find_lr
from hemodist.launch.train import train
from hemodist.plan.prepare import prepare
from hemodist.training.found_lr import PLOT, RESULT, with_found_lr
from hemodist.training.loop import Training
from hemodist.training.lr_curve import read_off
from hemodist.training.lr_range_test import run_range_test, sweep
from hemodist.training.optimizer import rates_at
from hemodist.world import World
from tests.support.dataset import make_dataset

FACTOR = 3.0


def silent(event) -> None:
    """A `Tell` that nobody hears."""


class Toy:
    """Least squares on 20 numbers of different scales, with fresh noise in every batch: convex."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.scales = np.geomspace(1, 0.3, 20)
        self.truth = self.rng.normal(size=20)
        self.weights = nn.Parameter(torch.zeros(20))
        self.optimizer = torch.optim.SGD([self.weights], lr=1.0, momentum=0.9)

    def step(self, lr: float) -> float:
        inputs = torch.from_numpy((self.rng.normal(size=(64, 20)) * self.scales).astype(np.float32))
        wanted = inputs @ torch.from_numpy(self.truth.astype(np.float32)) + 0.3 * torch.randn(64)
        self.optimizer.param_groups[0]["lr"] = lr
        loss = (inputs @ self.weights - wanted).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def best_of_grid(final: Callable[[float, int], float], rates: Sequence[float], seeds: int) -> float:
    """The one rate after whose training the loss is lowest, as a mean over seeds: of one seed it is half chance."""
    return min(rates, key=lambda lr: np.nan_to_num(np.mean([final(lr, seed) for seed in range(seeds)]), nan=np.inf))


def test_on_a_convex_toy_the_found_rate_of_every_seed_is_within_a_factor_of_3_of_the_best_of_a_grid():
    optim = replace(alexnet().optim, lr=1.0)

    def final(lr: float, seed: int) -> float:
        torch.manual_seed(seed)
        toy = Toy(seed)
        return float(np.mean([toy.step(lr * rates_at(step, 60, optim).lr) for step in range(60)][-10:]))

    best = best_of_grid(final, np.geomspace(1e-4, 1.0, 9).tolist(), seeds=8)
    test = RangeTest(alexnet(), lowest=1e-5, highest=10.0, steps=150)
    for seed in range(6):
        torch.manual_seed(seed)
        rates, losses = sweep(test, Toy(seed).step)
        assert rates[-1] < 10.0  # it ended where the loss diverged
        found = read_off(test, rates, losses).lr
        assert best / FACTOR <= found <= best * FACTOR, (seed, found, best)


def test_a_sweep_ends_where_the_loss_diverges_or_is_no_number():
    test = RangeTest(alexnet(), lowest=1e-4, highest=1.0, steps=80)
    rates, _ = sweep(test, lambda lr: 1.0 if lr < 1e-2 else 1e3)
    assert 1e-2 <= rates[-1] < 3e-2
    rates, losses = sweep(test, lambda lr: 1.0 if lr < 1e-2 else math.nan)
    assert rates[-1] < 1e-2
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lowest": 0.0}, "0 < lowest"),
        ({"steps": 5}, "use 20 to a million steps"),
        ({"smoothing": 50.0}, "a quarter of the steps"),
    ],
)
def test_bad_numbers_are_named_with_the_remedy(change, message):
    with pytest.raises(ConfigError, match=message):
        check(replace(RangeTest(alexnet()), **change))


def small(folder: Path, samples: int = 200, patients: int = 40) -> Run:
    """AlexNet on 64-pixel images, in this process."""
    make_dataset(folder / "data", samples=samples, patients=patients, size=64)
    run = replace(
        alexnet(),
        output=str(folder / "runs"),
        batch=BatchConfig(global_batch_size=16, mix_group=8, block_shards=4),
        scaling=ScalingConfig(workers=0),
        tracking=TrackingConfig(mode="disabled"),
    )
    run = replace(run, data=replace(run.data, dataset=str(folder / "data"), decode_threads=1))
    return replace(run, model=replace(run.model, image_size=64, weights="none"))


def test_a_found_rate_is_used_by_its_own_run_only(tmp_path):
    run = small(tmp_path)
    run = replace(run, model=replace(run.model, name="squeezenet1_1"))
    wanting = replace(run, optim=replace(run.optim, lr="found"))
    with pytest.raises(ConfigError, match=r"find_lr.py"):
        with_found_lr(wanting, prepare(wanting))
    found = run_range_test(RangeTest(run, lowest=1e-6, highest=0.1, steps=40, smoothing=2.0), World.alone(), silent)
    folder = tmp_path / "runs/alexnet"
    assert (folder / PLOT).read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / RESULT).read_text())["reading"]["lr"] == found.reading.lr
    assert not list(folder.rglob("*.pt"))  # nothing is trained
    assert with_found_lr(wanting, prepare(wanting)).optim.lr == found.reading.lr
    other = replace(
        wanting, batch=replace(wanting.batch, global_batch_size=32), model=replace(run.model, image_size=96)
    )
    with pytest.raises(ConfigError, match=r"global_batch_size was 16, is 32; model.image_size was 64, is 96"):
        with_found_lr(other, prepare(other))
    make_dataset(tmp_path / "other", samples=200, patients=40, size=64, seed=1)
    moved = replace(wanting, data=replace(run.data, dataset=str(tmp_path / "other")))
    with pytest.raises(ConfigError, match="data set was"):
        with_found_lr(moved, prepare(moved))


def test_a_test_that_says_nothing_leaves_its_curve_asks_for_more_steps_and_gives_no_run_a_rate(tmp_path):
    run = small(tmp_path)
    run = replace(run, model=replace(run.model, name="squeezenet1_1", image_size=32))
    with pytest.raises(
        ConfigError, match=r"no learning rate was found: the loss .* use more steps, such as --steps 40"
    ):
        find_lr(RangeTest(run, lowest=1e-9, highest=1e-8, steps=20, smoothing=2.0))
    folder = tmp_path / "runs/alexnet"
    assert (folder / PLOT).read_bytes().startswith(b"\x89PNG")
    record = json.loads((folder / RESULT).read_text())
    assert record["reading"]["lr"] is None
    assert len(record["losses"]) == 20
    wanting = replace(run, optim=replace(run.optim, lr="found"))
    with pytest.raises(ConfigError, match=r"has found none: the loss .* use more steps, such as --steps 40"):
        train(wanting)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_on_alexnet_the_found_rate_of_every_seed_is_within_a_factor_of_3_of_the_best_of_a_grid(tmp_path):
    run = small(tmp_path, samples=300, patients=60)

    def final(lr: float, seed: int) -> float:
        """The validation loss after two epochs, 32 steps."""
        attempt = replace(run, name=f"lr-{lr:g}-{seed}", seed=seed, optim=replace(run.optim, lr=lr, epochs=2))
        training = Training(attempt, World.alone(), silent)
        for batch in training.batches():
            training.update(batch)
        training.validate(1)
        return float(training.history[-1]["valid_loss"])

    best = best_of_grid(final, np.geomspace(10**-4.5, 10**-2.5, 5).tolist(), seeds=4)
    for seed in range(4):
        test = RangeTest(replace(run, name=f"found-{seed}", seed=seed), highest=0.1)
        found = run_range_test(test, World.alone(), silent).reading.lr
        assert best / FACTOR <= found <= best * FACTOR, (seed, found, best)
