"""Optimizer and learning-rate schedule; the schedule is a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from hemodist.config.training import OptimConfig

_ONE_CYCLE_START = 1 / 25
"""First learning rate of one_cycle as a share of the peak. Source: Smith and Topin, 2018, as in fast.ai."""


def build(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer, with weight decay on matrices and filters only."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if config.name == "sgd":
        return torch.optim.SGD(
            groups, lr=config.peak, momentum=config.momentum, nesterov=config.momentum > 0, fused=True
        )
    return torch.optim.AdamW(groups, lr=config.peak, betas=(config.momentum, 0.999), fused=True)


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give SGD the momentum 0 where it has none yet.

    In its own first step torch takes unset memory for it, which stays where that step is skipped (`found_inf`).
    """
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                if optimizer.state[parameter].get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def warmup_steps(config: OptimConfig, total: int) -> int:
    """Steps until the peak; the default depends on the schedule."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    return round(total * (0.25 if config.schedule == "one_cycle" else 0.1))


def lr_at(step: int, total: int, config: OptimConfig) -> float:
    """The learning rate of a step.

    Args:
        step: 0 to `total` - 1.
        total: number of steps of the run.
        config: shape.
    """
    warmup = warmup_steps(config, total)
    if step < warmup:
        progress = (step + 1) / warmup
        if config.schedule == "one_cycle":
            return config.peak * (_ONE_CYCLE_START + (1 - _ONE_CYCLE_START) * (1 - math.cos(math.pi * progress)) / 2)
        return config.peak * progress
    if config.schedule == "constant":
        return config.peak
    progress = (step - warmup) / max(total - 1 - warmup, 1)
    floor = config.final_lr_fraction
    return config.peak * (floor + (1 - floor) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
