"""What CutMix and mixup mix: partner, box and share of each mix group. Pure; `loading.mixing` mixes the tensors.

Targets are mixed by exactly what is mixed of the pixels: keeping the first image's label is a bug that the original
study had. The draws are made for each mix group (a few consecutive samples of the global batch) from Philox keyed by
(seed, number of the group in the endless stream), so they do not depend on the world size. Sources: Yun et al.,
"CutMix", ICCV 2019 (box of area 1 - lambda, uniform center, lambda ~ Beta(alpha, alpha)); Zhang et al., "mixup",
ICLR 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

from hemodist.config.data import MixConfig
from hemodist.plan.philox import Purpose, uniform, words


@dataclass(frozen=True)
class Mix:
    """What is mixed in each of g mix groups.

    Attributes:
        shift: int64 [g]; sample i of a group is mixed with sample (i + shift) mod mix_group of it; 0: not mixed.
        box: int64 [g, 4], pixels: x0, y0, x1, y1, half open, inside the image; empty for mixup.
        share: float64 [g], the share of the first image: 1 - area of the box / area of the image, exactly.
    """

    shift: npt.NDArray[np.int64]
    box: npt.NDArray[np.int64]
    share: npt.NDArray[np.float64]


def draw_mix(config: MixConfig, seed: int, first_group: int, groups: int, *, mix_group: int, size: int) -> Mix:
    """Draw for consecutive groups of the stream.

    Args:
        config: kind, probability and alpha.
        seed: of the run.
        first_group: number of the first group in the stream (global position // mix_group).
        groups: how many.
        mix_group: samples a group.
        size: side of the square images in pixels.
    """
    number = np.arange(first_group, first_group + groups, dtype=np.int64)
    u = np.concatenate(
        [uniform(words(seed, Purpose.MIX, number & 0xFFFFFFFF, number >> 32, block=block)) for block in range(2)],
        axis=1,
    )
    mixed = (u[:, 0] < config.probability) & (config.kind != "none") & (mix_group > 1)
    shift = np.where(mixed, 1 + (u[:, 1] * (mix_group - 1)).astype(np.int64), 0)
    share = betaincinv(config.alpha, config.alpha, u[:, 2]) if config.kind != "none" else np.ones(groups)
    if config.kind == "mixup":
        return Mix(shift, np.zeros((groups, 4), np.int64), np.where(mixed, share, 1.0))
    half = np.sqrt(1.0 - share) * size / 2
    x, y = u[:, 3] * size, u[:, 4] * size
    corners = np.stack([x - half, y - half, x + half, y + half], axis=1)
    box = np.where(mixed[:, None], np.clip(np.rint(corners), 0, size), 0).astype(np.int64)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    return Mix(shift, box, 1.0 - area / size**2)
