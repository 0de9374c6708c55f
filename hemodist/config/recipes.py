"""Recipes: functions that return one whole run configuration each.

`python jobs/train.py RECIPE --data.dataset DATASET` starts one; any field is a flag. Where a docstring states no score,
none has been measured yet. All but `demo` and `debug` begin with ImageNet's weights, as the study's networks did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hemodist.config.data import AugmentConfig, BatchConfig, DataConfig, MixConfig
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig, OptimConfig, StopConfig

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
        model=replace(alexnet().model, weights="none"),
        batch=BatchConfig(global_batch_size=16, mix_group=8, eval_batch_size=16),
        optim=OptimConfig(lr=1e-4, epochs=2),
        scaling=ScalingConfig(workers=0),
        tracking=TrackingConfig(mode="disabled"),
    )


def resnet18() -> Run:
    """The study's baseline: ResNet-18 with binary cross-entropy on six labels."""
    return Run(name="resnet18", augment=_LIGHT, model=ModelConfig(name="resnet18", weights="imagenet"))


def alexnet() -> Run:
    """The study's AlexNet; it has no batch norm, so it wants a small learning rate and clipping."""
    return Run(
        name="alexnet",
        augment=_LIGHT,
        model=ModelConfig(name="alexnet", weights="imagenet"),
        optim=OptimConfig(lr=1e-4, clip_norm=1.0),
    )


def alexnet_lr_found() -> Run:
    """AlexNet with the learning rate of a range test, as the study had it; `jobs/find_lr.py alexnet_lr_found` first."""
    return replace(alexnet(), name="alexnet_lr_found", optim=replace(alexnet().optim, lr="found"))


def alexnet_cutmix() -> Run:
    """AlexNet with CutMix: the study left it for the future."""
    return replace(alexnet(), name="alexnet_cutmix", mix=MixConfig(kind="cutmix"))


def alexnet_transpose() -> Run:
    """AlexNet with flips both ways and transpositions, all eight symmetries of the square: left for the future."""
    return replace(
        alexnet(),
        name="alexnet_transpose",
        augment=replace(_LIGHT, flip_horizontal=0.5, flip_vertical=0.5, transpose=0.5),
    )


def alexnet_more() -> Run:
    """AlexNet on all data, for 12 epochs, with a found learning rate: left for the future.

    Run `jobs/find_lr.py alexnet_more` first. It stops after 4 epochs without a better weighted log loss.
    """
    return replace(
        alexnet(),
        name="alexnet_more",
        optim=replace(alexnet().optim, lr="found", epochs=12),
        stop=StopConfig(patience=4),
    )


def resnet34() -> Run:
    """ResNet-34."""
    return Run(name="resnet34", augment=_LIGHT, model=ModelConfig(name="resnet34", weights="imagenet"))


def resnet34_silu() -> Run:
    """ResNet-34 with every ReLU replaced by SiLU, as the study tried."""
    return Run(
        name="resnet34_silu", augment=_LIGHT, model=ModelConfig(name="resnet34", weights="imagenet", activation="silu")
    )


def resnet50() -> Run:
    """ResNet-50."""
    return Run(name="resnet50", augment=_LIGHT, model=ModelConfig(name="resnet50", weights="imagenet"))


def resnet101() -> Run:
    """ResNet-101."""
    return Run(name="resnet101", augment=_LIGHT, model=ModelConfig(name="resnet101", weights="imagenet"))


def resnet152() -> Run:
    """ResNet-152."""
    return Run(name="resnet152", augment=_LIGHT, model=ModelConfig(name="resnet152", weights="imagenet"))


def densenet121() -> Run:
    """DenseNet-121."""
    return Run(name="densenet121", augment=_LIGHT, model=ModelConfig(name="densenet121", weights="imagenet"))


def densenet161() -> Run:
    """DenseNet-161, the study's best network."""
    return Run(name="densenet161", augment=_LIGHT, model=ModelConfig(name="densenet161", weights="imagenet"))


def densenet161_cutmix() -> Run:
    """DenseNet-161 with CutMix whose labels are mixed with the pixels (the study's kept the first image's)."""
    return replace(densenet161(), name="densenet161_cutmix", mix=MixConfig(kind="cutmix"))


def strong() -> Run:
    """What we would train today on everything within a day on 8 GPUs; for a data set stored at 384 pixels or more.

    Why each part: ConvNeXt-Small (Liu et al., 2022) beats ResNet and DenseNet at equal arithmetic, has no batch norm
    (so the number of GPUs changes nothing), and starts from ImageNet, as the competition's leading entries did. 384
    pixels, since thin epidural and subdural bleeds are a few millimetres wide. AdamW, cosine with warm-up and an
    averaged copy of the weights, which is what is validated, are ConvNeXt's own training. CutMix with mixed labels on
    half of the mix groups, crops, flips and small rotations against learning by heart; six epochs, since neighbouring
    slices of one head are nearly copies. The loss is the competition's own, `any` counted twice; rare labels are not
    weighted up, which would spoil the probabilities that are scored.

    Computed until measured: an RTX 3090 trains 166 images a second of 384 pixels (timm's table), an H100 2.7 to 3.6
    times as many, since memory is what limits it. So 8 H100 make the 3.6 million images of 6 epochs in 13 to 17
    minutes; validation and saving come on top.
    """
    return Run(
        name="strong",
        batch=BatchConfig(global_batch_size=256, mix_group=8, eval_batch_size=128),
        augment=AugmentConfig(
            min_crop_area=0.6, flip_horizontal=0.5, rotation_degrees=20.0, brightness=0.05, contrast=0.15
        ),
        mix=MixConfig(kind="cutmix", probability=0.5),
        model=ModelConfig(name="convnext_small", weights="imagenet", image_size=384, ema_decay=0.9995),
        optim=OptimConfig(
            lr=2e-4,
            weight_decay=0.05,
            schedule="cosine",
            final_lr_fraction=0.01,
            clip_norm=1.0,
            epochs=6,
        ),
        scaling=ScalingConfig(workers=8),
    )


RECIPES: tuple[Callable[[], Run], ...] = (
    demo,
    debug,
    resnet18,
    alexnet,
    alexnet_lr_found,
    alexnet_cutmix,
    alexnet_transpose,
    alexnet_more,
    resnet34,
    resnet34_silu,
    resnet50,
    resnet101,
    resnet152,
    densenet121,
    densenet161,
    densenet161_cutmix,
    strong,
)
"""What `jobs/train.py` offers, by function name."""
