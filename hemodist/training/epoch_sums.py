"""What is added up over an epoch: the loss of its samples, how many they are, and the time."""

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
        self._loss = torch.tensor(loss, dtype=torch.float64, device=world.device)
        self._weight = torch.tensor(weight, dtype=torch.float64, device=world.device)
        self._seconds, self._clock = state.epoch_seconds, time.monotonic()

    def add(self, loss_sum: torch.Tensor, weight: torch.Tensor) -> None:
        """Add a step of this rank.

        Args:
            loss_sum: over its samples.
            weight: the number of samples in that sum, those that are masked out not counted.
        """
        self._loss += loss_sum
        self._weight += weight

    def totals(self) -> tuple[float, float]:
        """Loss and weight over all ranks, which call it together; waits for the device."""
        loss, weight = self._world.sum(torch.stack([self._loss, self._weight])).tolist()
        return loss, weight

    def seconds(self) -> float:
        """Since the epoch began, without the time between a stop and the restart."""
        return self._seconds + time.monotonic() - self._clock

    def clear(self) -> None:
        """Begin the next epoch."""
        self._loss.zero_()
        self._weight.zero_()
        self._seconds, self._clock = 0.0, time.monotonic()
