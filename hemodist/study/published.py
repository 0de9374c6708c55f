"""The figures of the original study, as they were published."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A figure of the original study, as it was.

    Attributes:
        system: what it was measured on.
        recipe: ours for the same system, or "".
        figure: as published.
        measure: what the figure is.
        accuracy: the same as an accuracy.
    """

    system: str
    recipe: str
    figure: str
    measure: str
    accuracy: float


PUBLISHED = (
    Published("ResNet-18", "resnet18", "0.676", "accuracy", 0.676),
    Published("AlexNet", "alexnet", "0.739", "multi-label accuracy", 0.739),
    Published("AlexNet, found learning rate", "alexnet_lr_found", "0.740", "multi-label accuracy", 0.740),
    Published("ResNet-34 with SiLU", "resnet34_silu", "0.262", "error rate", 1 - 0.262),
    Published("ResNet-34 with SiLU, later", "resnet34_silu", "0.3575", "error rate", 1 - 0.3575),
    Published("DenseNet", "densenet161", "0.787", "accuracy", 0.787),
    Published("DenseNet with CutMix", "densenet161_cutmix", "0.753", "accuracy", 0.753),
)
"""The study trained on 1,238 slices and validated on 262."""

PUBLISHED_MAJORITY = 0.7547
"""Accuracy of always answering the more frequent class, on the study's binary task."""
PUBLISHED_NONE = 0.7246
"""Multi-label accuracy of never answering any label, on the study's positives."""
