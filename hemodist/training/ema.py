"""The exponential moving average of a network's weights and batch statistics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

_WARMUP_POWER = 2 / 3


class EMA(AveragedModel):
    """A copy of a network that follows it: update n, from 0, takes max((1 + n)^(-2/3), 1 - `decay`) of the new weights.

    So the first is taken whole, and what a short run began with is soon forgotten. Source: timm's `ModelEmaV3` with
    `use_warmup`.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Copy the network; `decay` is 0 to 1."""
        self._decay = decay
        super().__init__(network, use_buffers=True)
        self.n_averaged = self.n_averaged.to(next(network.parameters()).device)

    @torch.no_grad()
    def follow(self, network: nn.Module, skipped: torch.Tensor) -> None:
        """Take in the weights that the network has after an update.

        In a few calls for all tensors: torch's own `update_parameters` asks for its count on the device for each one.

        Args:
            network: whose weights were updated.
            skipped: whether no update was made, so that the average stays too, but for what counts the forward passes;
                bool scalar on the network's device.
        """
        pairs = list(zip(_tensors(self.module), _tensors(network), strict=True))
        means = [mean for mean, _ in pairs if mean.is_floating_point()]
        values = [value.to(mean.dtype) for mean, value in pairs if mean.is_floating_point()]
        taken = (1.0 + self.n_averaged).pow(-_WARMUP_POWER).clamp(min=1 - self._decay).masked_fill(skipped, 0.0)
        if taken.device.type == "cpu":  # one pass over the memory; on a GPU that would be a launch for each tensor
            torch._foreach_lerp_(means, values, [taken] * len(means))
        else:
            differences = torch._foreach_sub(values, means)
            torch._foreach_mul_(differences, taken)
            torch._foreach_add_(means, differences)
        counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        if counts:
            torch._foreach_copy_([mean for mean, _ in counts], [value for _, value in counts])
        self.n_averaged += ~skipped


def _tensors(network: nn.Module) -> Iterator[torch.Tensor]:
    return chain(network.parameters(), network.buffers())
