"""The exponential moving average of a network's weights and batch statistics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class EMA(AveragedModel):
    """A copy of a network that follows it slowly, `decay` a step, and forgets its start the faster."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Copy the network; `decay` is 0 to 1."""
        self._decay = decay
        super().__init__(network, use_buffers=True)

    @torch.no_grad()
    def follow(self, network: nn.Module, step: int) -> None:
        """Take in the weights that the network has after the update of `step`, counted from 0.

        In one call for all tensors: torch's own `update_parameters` asks for its count on the device for each of them.
        """
        kept = min(self._decay, (1 + step) / (10 + step)) if self.n_averaged else 0.0
        means, values = list[torch.Tensor](), list[torch.Tensor]()
        pairs = zip(_tensors(self.module), _tensors(network), strict=True)
        for mean, value in pairs:
            if mean.is_floating_point():
                means.append(mean)
                values.append(value.to(mean.dtype))
            else:
                mean.copy_(value)
        torch._foreach_lerp_(means, values, 1 - kept)
        self.n_averaged += 1


def _tensors(network: nn.Module) -> Iterator[torch.Tensor]:
    return chain(network.parameters(), network.buffers())
