"""The gradient of the loss of the global batch, whatever ranks and micro-batches it is divided into."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from hemodist.config.run import Run
from hemodist.loading.dali_pipeline import Batch
from hemodist.scoring.run_network import autocast_for
from hemodist.training import loss
from hemodist.training.profile import named
from hemodist.world import World


def backward(
    wrapped: nn.Module, batch: Batch, run: Run, world: World, optimizer: torch.optim.Optimizer, known_share: float
) -> torch.Tensor:
    """Make the gradient of a step.

    Returns float32 [2]: the sum of the losses of this rank's samples, and the sum of their known weights.

    The last step's gradient goes between forward and backward. On a CPU that is 10 % faster than after the step: then
    all of a step's memory would be free at once, given back to the system, and asked for again page by page.

    Args:
        wrapped: the network as `distributed` gave it.
        batch: this rank's share of the global batch.
        run: batch sizes and precision.
        world: the ranks.
        optimizer: of the network's parameters.
        known_share: of the label weights, how much is known on average in the training split; see `training.loss`.
    """
    mix_group = run.batch.mix_group
    parts = np.array_split(np.arange(len(batch.rows) // mix_group), run.batch.accumulate)
    sums = torch.zeros(2, device=world.device)
    # DDP averages over the ranks, so the local sum is scaled by ranks / global batch: exact for uneven shares too.
    scale = world.size / (run.batch.global_batch_size * known_share)
    for number, part in enumerate(parts):
        chosen = slice(int(part[0]) * mix_group, (int(part[-1]) + 1) * mix_group)
        with _no_sync(wrapped, last=number == len(parts) - 1):
            with autocast_for(run, world), named("forward"):
                logits = wrapped(batch.images[chosen])
            targets, weights = batch.targets[chosen], batch.weights[chosen]
            losses = loss.per_sample(logits, targets) * weights
            if number == 0:
                optimizer.zero_grad(set_to_none=True)
            with named("backward"):
                (losses.sum() * scale).backward()  # type: ignore[no-untyped-call]
        sums += torch.stack([losses.detach().sum(), (loss.known_weight(targets) * weights).sum()])
    return sums


def clip(network: nn.Module, most: float) -> torch.Tensor:
    """Scale the gradients down to a norm of `most`, 0 for no limit; returns the norm before, a scalar on the device.

    PyTorch's `clip_grad_norm_` would multiply every gradient by 1 where there is no limit.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if most:
        torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
    return norm


def distributed(module: nn.Module, world: World, gradients: str = "fp32") -> nn.Module:
    """The module with gradients averaged over the ranks, sent as fp32 or bf16; itself where there is one rank."""
    if world.size == 1:
        return module
    devices = [world.device] if world.device.type == "cuda" else None
    wrapped = DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)
    # Rank 0's buffers, which construction has shared, are from here on shared where they are read. By the attribute:
    # the argument has another name in each version of torch.
    wrapped.broadcast_buffers = False
    if gradients == "bf16":
        wrapped.register_comm_hook(None, bf16_compress_hook)
    return wrapped


class ExchangeTimer:
    """Times how long a step waits for the other ranks once this rank's own gradient is computed.

    Sums that travel beside the computing cost a step nothing and are not counted; waiting for a slower rank is. The
    mark is the gradient of the network's first parameter, which is computed last.
    """

    def __init__(self, network: nn.Module, world: World) -> None:
        """Mark each gradient from now on, where there are several ranks."""
        self._gpu = world.device.type == "cuda"
        self._computed: float | torch.cuda.Event | None = None
        first = next((parameter for parameter in network.parameters() if parameter.requires_grad), None)
        if world.size > 1 and first is not None:
            first.register_post_accumulate_grad_hook(lambda _: self._mark())  # type: ignore[no-untyped-call]

    def ended(self) -> Exchange:
        """Right after the backward pass: the wait of this step, which the device may not have come to yet."""
        computed, self._computed = self._computed, None
        return Exchange(computed, None if computed is None else self._now())

    def _mark(self) -> None:
        self._computed = self._now()

    def _now(self) -> float | torch.cuda.Event:
        if not self._gpu:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


@dataclass(frozen=True)
class Exchange:
    """A step's wait for the other ranks.

    Attributes:
        computed: when this rank's gradient was computed, in seconds, or as an event on the device; None on one rank.
        ended: when that of all ranks was there.
    """

    computed: float | torch.cuda.Event | None = None
    ended: float | torch.cuda.Event | None = None

    def seconds(self) -> float:
        """How long it was; on a GPU to be asked only once the step's figures are here, and then without a wait."""
        if self.computed is None or self.ended is None:
            return 0.0
        if isinstance(self.computed, torch.cuda.Event):
            assert isinstance(self.ended, torch.cuda.Event)
            return float(self.computed.elapsed_time(self.ended)) / 1000
        assert not isinstance(self.ended, torch.cuda.Event)
        return self.ended - self.computed


def _no_sync(module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """DDP's gradient exchange only after the last micro-batch."""
    return nullcontext() if last or not isinstance(module, DistributedDataParallel) else module.no_sync()
