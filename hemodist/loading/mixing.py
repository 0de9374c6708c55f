"""CutMix and mixup of a batch on its device, as `plan.mix` has drawn them.

Targets are mixed by exactly what was mixed of the pixels.
"""

from __future__ import annotations

import numpy as np
import torch

from hemodist.plan.mix import Mix


def mix_batch(
    images: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, mix: Mix, mix_group: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mix images and targets.

    Args:
        images: float [b, c, h, w] with b = groups x mix_group, any memory format.
        targets: float32 [b, labels]; NaN is an unknown label.
        weights: float [b]; 0 for a sample that was masked out.
        mix: how each of the b / mix_group groups is mixed.
        mix_group: samples a group.

    Returns:
        Images, targets and weights of the same shapes; a mixed target is unknown where either label is, a mixed
        sample is masked out where either one was.
    """
    if not mix.shift.any():
        return images, targets, weights
    samples = np.arange(len(images))
    group = samples // mix_group
    partner_row = group * mix_group + (samples % mix_group + mix.shift[group]) % mix_group
    partner = torch.from_numpy(partner_row).to(images.device)
    share = torch.from_numpy(mix.share[group].astype(np.float32)).to(images.device)
    # A factor of 0 times NaN is NaN: a sample that is not mixed keeps its own target untouched.
    blended = share[:, None] * targets + (1.0 - share[:, None]) * targets[partner]
    mixed_targets = torch.where((share < 1.0)[:, None], blended, targets)
    mixed_weights = torch.where(share < 1.0, torch.minimum(weights, weights[partner]), weights)
    if not mix.box.any():
        weight = share.to(images.dtype)[:, None, None, None]
        return weight * images + (1 - weight) * images[partner], mixed_targets, mixed_weights
    box = torch.from_numpy(mix.box[group]).to(images.device)
    x = torch.arange(images.shape[3], device=images.device)
    y = torch.arange(images.shape[2], device=images.device)
    inside_x = (x >= box[:, 0:1]) & (x < box[:, 2:3])  # [b, w]
    inside_y = (y >= box[:, 1:2]) & (y < box[:, 3:4])  # [b, h]
    inside = (inside_y[:, :, None] & inside_x[:, None, :])[:, None]  # [b, 1, h, w]
    return torch.where(inside, images[partner], images), mixed_targets, mixed_weights
