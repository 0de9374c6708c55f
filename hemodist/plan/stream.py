"""Which samples a rank reads at a global step, and how each is augmented and mixed. Pure.

All of it is a function of step, rank and world size, so a batch can be worked out again anywhere and at any time.
"""

from __future__ import annotations

from dataclasses import dataclass

from hemodist.config.data import AugmentConfig, MixConfig
from hemodist.config.shares import share_bounds
from hemodist.plan.augmentation import Augmentation, draw_augmentation
from hemodist.plan.mix import Mix, draw_mix
from hemodist.plan.order import Plan, Share


@dataclass(frozen=True)
class Stream:
    """The training samples of a run, step by step, without an end.

    Attributes:
        plan: which sample is read where.
        augment: strengths of the augmentation.
        mix: CutMix or mixup.
        image_size: side of the network's input in pixels.
    """

    plan: Plan
    augment: AugmentConfig
    mix: MixConfig
    image_size: int

    def at(self, step: int, rank: int = 0, world: int = 1) -> tuple[Share, Augmentation]:
        """What `rank` of `world` reads at a step, and how it is augmented."""
        share = self.plan.at(step, rank, world)
        return share, draw_augmentation(self.augment, self.plan.seed, share.epochs, share.rows, share.repeats)

    def mix_at(self, step: int, rank: int = 0, world: int = 1) -> Mix:
        """How the mix groups of that share are mixed."""
        groups = self.plan.global_batch_size // self.plan.mix_group
        start, stop = share_bounds(groups, 1, rank, world)
        return draw_mix(
            self.mix,
            self.plan.seed,
            step * groups + start,
            stop - start,
            mix_group=self.plan.mix_group,
            size=self.image_size,
        )

    def epoch_and_position(self, step: int) -> tuple[int, int]:
        """Epoch, and position in it, of the first sample of a global batch."""
        return divmod(step * self.plan.global_batch_size, len(self.plan.rows))
