"""Recipes: functions that return one whole run configuration each.

`python jobs/train.py RECIPE --data.dataset DATASET` starts one; any field is a flag. Where a docstring states no score,
none has been measured yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hemodist.config import (
    AugmentConfig,
    BatchConfig,
    DataConfig,
    MixConfig,
    ModelConfig,
    OptimConfig,
    Run,
    ScalingConfig,
    TrackingConfig,
)

_LIGHT = AugmentConfig(min_crop_area=0.7, flip_horizontal=0.5, rotation_degrees=15.0, brightness=0.05, contrast=0.1)


def demo() -> Run:
    """ResNet-18 on small images, for `jobs/demo.py`: minutes on two CPU cores, from scratch."""
    return Run(
        name="demo",
        data=DataConfig(valid_fold=2),  # of the phantom's few patients, those held out show four of five kinds
        batch=BatchConfig(global_batch_size=32, mix_group=8),
        augment=replace(_LIGHT, min_crop_area=0.8, rotation_degrees=10.0),
        model=ModelConfig(name="resnet18", image_size=96, ema_decay=0.98),
        optim=OptimConfig(lr=2e-3, epochs=5, weight_decay=0.02, clip_norm=5.0),
    )


def debug() -> Run:
    """One process, no Ray, no W&B, two short epochs of AlexNet: steps under a debugger on any machine."""
    return replace(
        alexnet(),
        name="debug",
        batch=BatchConfig(global_batch_size=16, mix_group=8, eval_batch_size=16),
        optim=OptimConfig(lr=1e-4, epochs=2),
        scaling=ScalingConfig(workers=0),
        tracking=TrackingConfig(mode="disabled"),
    )


def resnet18() -> Run:
    """The study's baseline: ResNet-18 with binary cross-entropy on six labels."""
    return Run(name="resnet18", augment=_LIGHT, model=ModelConfig(name="resnet18"))


def alexnet() -> Run:
    """The study's AlexNet; it has no batch norm, so it wants a small learning rate and clipping."""
    return Run(
        name="alexnet",
        augment=_LIGHT,
        model=ModelConfig(name="alexnet"),
        optim=OptimConfig(lr=1e-4, clip_norm=1.0),
    )


def resnet34() -> Run:
    """ResNet-34."""
    return Run(name="resnet34", augment=_LIGHT, model=ModelConfig(name="resnet34"))


def resnet34_silu() -> Run:
    """ResNet-34 with every ReLU replaced by SiLU, as the study tried."""
    return Run(name="resnet34_silu", augment=_LIGHT, model=ModelConfig(name="resnet34", activation="silu"))


def densenet161() -> Run:
    """DenseNet-161, the study's best network."""
    return Run(name="densenet161", augment=_LIGHT, model=ModelConfig(name="densenet161"))


def densenet161_cutmix() -> Run:
    """DenseNet-161 with CutMix whose labels are mixed with the pixels (the study's kept the first image's)."""
    return replace(densenet161(), name="densenet161_cutmix", mix=MixConfig(kind="cutmix"))


RECIPES: tuple[Callable[[], Run], ...] = (
    demo,
    debug,
    resnet18,
    alexnet,
    resnet34,
    resnet34_silu,
    densenet161,
    densenet161_cutmix,
)
"""What `jobs/train.py` offers, by function name."""
