"""The exponential moving average of a network's weights and batch statistics."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class Average(AveragedModel):
    """A copy of a network that follows it slowly, `decay` a step, and forgets its start the faster."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Copy the network; `decay` is 0 to 1."""
        self._decay, self._step = decay, 0

        def mean_of(mean: torch.Tensor, value: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
            # The step is known here; torch's own count lies on the device and would have to be waited for.
            weight = min(self._decay, (1 + self._step) / (10 + self._step))
            return torch.lerp(value.to(mean.dtype), mean, weight) if mean.is_floating_point() else value

        super().__init__(network, avg_fn=mean_of, use_buffers=True)

    def follow(self, network: nn.Module, step: int) -> None:
        """Take in the weights that the network has after the update of `step`, counted from 0."""
        self._step = step
        self.update_parameters(network)
