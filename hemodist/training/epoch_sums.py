"""What is added up over an epoch: the loss of its samples, what is known of them, and the time."""

from __future__ import annotations

import time

import torch

from hemodist.training.run_state import RunState
from hemodist.world import World


class EpochSums:
    """The sums of the current epoch. They stay on the device, so that no step waits for it."""

    def __init__(self, world: World, state: RunState) -> None:
        """Go on with the sums of a checkpoint; the clock runs from now.

        Args:
            world: the ranks.
            state: where the run stands. Its sums are those of all ranks; rank 0 carries them on.
        """
        loss, weight = (state.epoch_loss, state.epoch_weight) if world.is_rank_0 else (0.0, 0.0)
        self._world = world
        self._sums = torch.tensor([loss, weight], dtype=torch.float64, device=world.device)
        self._seconds, self._clock = state.epoch_seconds, time.monotonic()

    def add(self, sums: torch.Tensor, skipped: torch.Tensor) -> None:
        """Add a step of this rank.

        Args:
            sums: of its samples' losses and of their known weights, float [2].
            skipped: whether the step counts for nothing; bool scalar.
        """
        self._sums += sums.masked_fill(skipped, 0.0)

    def totals(self) -> tuple[float, float]:
        """Loss and weight over all ranks, which call it together; waits for the device."""
        loss, weight = self._world.sum(self._sums.clone()).tolist()
        return loss, weight

    def mean_loss(self) -> float:
        """Over all ranks, which call it together; NaN where nothing is known of the epoch's labels."""
        loss, weight = self.totals()
        return loss / weight if weight else float("nan")

    def seconds(self) -> float:
        """Since the epoch began, without the time between a stop and the restart."""
        return self._seconds + time.monotonic() - self._clock

    def clear(self) -> None:
        """Begin the next epoch."""
        self._sums.zero_()
        self._seconds, self._clock = 0.0, time.monotonic()
