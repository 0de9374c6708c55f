"""Optimizer, and learning rate and momentum of each step; both are pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from hemodist.config.training import OptimConfig

_RISE = 25
"""Peak of one_cycle over its first learning rate: `div` of fast.ai, `div_factor` of torch."""

_MOMENTUM = 0.9
_HIGH, _LOW = 0.95, 0.85
"""Momentum at the ends and at the peak of one_cycle. Source: Smith, 2018 (arXiv 1803.09820), as in fast.ai."""

UNDECAYED = frozenset(
    {
        "layer_scale",  # ConvNeXt
        "relative_position_bias_table",  # Swin, MaxViT
        "cpb_mlp",  # what Swin V2 has instead of such a table
        "logit_scale",  # Swin V2's temperature of attention
        "class_token",  # ViT
        "pos_embedding",  # ViT
    }
)
"""Parts of torchvision's parameter names that stand for more than one number a channel, and are no filter or matrix.

Source: `no_weight_decay` of timm's networks; its layer scale is a vector, and not decayed for that.
"""


@dataclass(frozen=True)
class Rates:
    """What a step is made with.

    Attributes:
        lr: the learning rate.
        momentum: of SGD, or AdamW's beta1.
    """

    lr: float
    momentum: float


def build(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer, with weight decay on matrices and filters only, as timm's `param_groups_weight_decay` has it."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in named if is_decayed(name, p)]
    plain = [p for name, p in named if not is_decayed(name, p)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    momentum = _MOMENTUM if config.momentum is None else config.momentum
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.peak, momentum=momentum, nesterov=momentum > 0, fused=True)
    return torch.optim.AdamW(groups, lr=config.peak, betas=(momentum, 0.999), fused=True)


def is_decayed(name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay holds for a parameter: not for norms, biases, layer scales, bias tables, tokens, positions.

    Args:
        name: dotted, in the network.
        parameter: any shape.
    """
    return parameter.ndim > 1 and not name.endswith(".bias") and UNDECAYED.isdisjoint(name.split("."))


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give SGD the momentum 0 where it has none yet.

    In its own first step torch takes unset memory for it, which stays where that step is skipped (`found_inf`).
    """
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                if optimizer.state[parameter].get("momentum_buffer") is None:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def rates_at(step: int, total: int, config: OptimConfig) -> Rates:
    """Learning rate and momentum of a step.

    one_cycle is `torch.optim.lr_scheduler.OneCycleLR` with `pct_start` = warm-up / total, `div_factor` 25 and
    `final_div_factor` = 1 / (25 * `final_lr_fraction`): its peak is step warm-up - 1, which need not be a whole number
    where the warm-up is a quarter of all steps. Where the peak is at step 0 or before, the run begins behind it.

    Args:
        step: 0 to `total` - 1.
        total: number of steps of the run.
        config: shape.
    """
    peak, last = config.peak, config.peak * config.final_lr_fraction
    momentum = _MOMENTUM if config.momentum is None else config.momentum
    if config.schedule == "one_cycle":
        top = (total / 4 if config.warmup_steps is None else config.warmup_steps) - 1
        if 0 < top >= step:
            progress = step / top
            lr, cycled = _cosine(peak / _RISE, peak, progress), _cosine(_HIGH, _LOW, progress)
        else:
            progress = (step - top) / (total - 1 - top)
            lr, cycled = _cosine(peak, last, progress), _cosine(_LOW, _HIGH, progress)
        return Rates(lr, cycled if config.momentum is None else momentum)
    warmup = round(total / 10) if config.warmup_steps is None else config.warmup_steps
    if step < warmup:
        return Rates(peak * (step + 1) / warmup, momentum)
    if config.schedule == "constant":
        return Rates(peak, momentum)
    return Rates(_cosine(peak, last, (step - warmup) / max(total - 1 - warmup, 1)), momentum)


def _cosine(start: float, end: float, progress: float) -> float:
    """From `start` at 0 to `end` at 1 along half a cosine."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))


def set_rates(optimizer: torch.optim.Optimizer, rates: Rates) -> None:
    """Give every parameter group the learning rate and the momentum."""
    for group in optimizer.param_groups:
        group["lr"] = rates.lr
        if "betas" in group:
            group["betas"] = (rates.momentum, *group["betas"][1:])
        else:
            group["momentum"] = rates.momentum
