"""CutMix and mixup of a batch, as `plan.mix` has drawn them. Targets are mixed by exactly what was mixed of the pixels.

Which samples and which pixels is known on the host, so a GPU is only told to copy; nobody waits for it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from hemodist.plan.mix import Mix

Floats = npt.NDArray[np.float32]


def mix_images(images: torch.Tensor, mix: Mix) -> None:
    """Mix images in place.

    Args:
        images: float [b, h, w, c] with b = groups x samples of a group.
        mix: how each group is mixed.
    """
    boxes = mix.box.any()
    for shift, (x0, y0, x1, y1), share, group in zip(
        mix.shift.tolist(), mix.box.tolist(), mix.share.tolist(), images.chunk(len(mix.shift)), strict=True
    ):
        if not shift:
            continue
        if boxes:
            part = group[:, y0:y1, x0:x1]
            part.copy_(part.roll(-shift, 0))
        else:
            group.copy_(share * group + (1 - share) * group.roll(-shift, 0))


def mix_targets(targets: Floats, weights: Floats, mix: Mix) -> tuple[Floats, Floats]:
    """Mix targets and weights.

    Args:
        targets: float32 [b, labels]; NaN is an unknown label.
        weights: float32 [b]; 0 for a sample that was masked out.
        mix: how each group is mixed.

    Returns:
        Targets and weights of the same shapes; a mixed target is unknown where either label is, a mixed sample is
        masked out where either one was.
    """
    samples, size = np.arange(len(targets)), len(targets) // len(mix.shift)
    group = samples // size
    partner = group * size + (samples % size + mix.shift[group]) % size
    share = mix.share[group].astype(np.float32)
    # A factor of 0 times NaN is NaN: a sample that is not mixed keeps its own target untouched.
    blended = share[:, None] * targets + (1 - share)[:, None] * targets[partner]
    mixed = share < 1
    return (
        np.where(mixed[:, None], blended, targets),
        np.where(mixed, np.minimum(weights, weights[partner]), weights),
    )
