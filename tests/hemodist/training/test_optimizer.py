from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from hemodist.config.training import OptimConfig
from hemodist.training.optimizer import build, lr_at, warmup_steps


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_the_peak_is_reached_at_the_end_of_the_warm_up_and_never_exceeded(schedule):
    config = OptimConfig(lr=0.3, schedule=schedule, final_lr_fraction=0.01)
    rates = [lr_at(step, 200, config) for step in range(200)]
    warmup = warmup_steps(config, 200)
    assert rates[warmup - 1] == pytest.approx(0.3)
    assert max(rates) <= 0.3 + 1e-12
    assert all(a < b for a, b in itertools.pairwise(rates[:warmup]))
    assert rates[-1] == pytest.approx(0.3 if schedule == "constant" else 0.003)


def test_a_run_of_one_step_has_a_learning_rate():
    assert 0 < lr_at(0, 1, OptimConfig()) <= 1e-3


def test_biases_and_normalisation_are_not_decayed():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    for name in ("adamw", "sgd"):
        decayed, plain = build(model, OptimConfig(name=name, weight_decay=0.1)).param_groups
        assert [p.ndim for p in decayed["params"]] == [4, 2]
        assert {p.ndim for p in plain["params"]} == {1}
        assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
        assert sum(p.numel() for group in (decayed, plain) for p in group["params"]) == sum(
            p.numel() for p in model.parameters()
        )


def test_both_optimizers_go_downhill():
    for name in ("adamw", "sgd"):
        layer = nn.Linear(4, 1)
        optimizer = build(layer, OptimConfig(name=name, lr=0.05))
        losses = []
        for _ in range(50):
            loss = (layer(torch.ones(1, 4)) - 3).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.2 * losses[0]
