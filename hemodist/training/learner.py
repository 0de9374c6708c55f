"""What learns on one rank: the network, its optimizer and its moving average, and what one step does to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hemodist.config.run import Run
from hemodist.errors import ConfigError
from hemodist.loading.dali_pipeline import Batch
from hemodist.models.checkpoint_file import CheckpointError
from hemodist.models.network import build_network, has_dropout, make_deterministic
from hemodist.models.pretrained import load_pretrained
from hemodist.plan.philox import Purpose, words
from hemodist.training import optimizer
from hemodist.training.ema import EMA
from hemodist.training.gradient import Exchange, ExchangeTimer, backward, clip, distributed
from hemodist.training.profile import named
from hemodist.world import World


@dataclass(frozen=True)
class Update:
    """What a step has found.

    Attributes:
        sums: of this rank's samples: their losses, and their known weights (`training.loss`); float32 [2].
        gradient_norm: of the mean gradient over the global batch, before clipping; scalar on the device, the same on
            every rank.
        skipped: whether nothing was changed, since the gradient is not finite; bool scalar on the device, the same on
            every rank.
        exchange: how long it has waited for the other ranks' gradients.
    """

    sums: torch.Tensor
    gradient_norm: torch.Tensor
    skipped: torch.Tensor
    exchange: Exchange


class Learner:
    """The network and what moves its weights.

    Attributes:
        network: the bare network, whose weights a checkpoint holds.
        wrapped: the network as a step calls it: compiled where the run says so, with gradients averaged over the ranks.
        optimizer: of the network's parameters.
        ema: the exponential moving average of the network; None where the run has none.
    """

    def __init__(
        self, network: nn.Module, run: Run, world: World, saved: Mapping[str, Any] | None, known_share: float
    ) -> None:
        """Take the weights of a checkpoint, or the pretrained ones, and give every rank the same.

        Args:
            network: as `seeded_network` gave it.
            run: the configuration.
            world: the ranks, which call this together.
            saved: the checkpoint to go on from, the same on every rank; None for a new run.
            known_share: `Prepared.known_share`.

        Raises:
            ConfigError: the pretrained weights cannot be had, or do not fit.
        """
        self._run, self._world, self._known_share = run, world, known_share
        self.network = network
        self.optimizer = optimizer.build(network, run.optim)
        self._draws = has_dropout(network)
        if saved is not None:
            _restore(saved, model=network, optimizer=self.optimizer)
        elif world.is_rank_0:
            load_pretrained(network, run.model)
        module: nn.Module = torch.compile(network, mode=run.model.compile_mode) if run.model.compile else network  # type: ignore[assignment]
        self.wrapped = distributed(module, world, run.scaling.gradients)  # which gives all ranks rank 0's weights
        self._exchange = ExchangeTimer(network, world)
        self.ema = EMA(network, run.model.ema_decay) if run.model.ema_decay else None
        if self.ema is not None and saved is not None:
            _restore(saved, ema=self.ema)
        optimizer.begin_momentum(self.optimizer)
        self.wrapped.train()  # walks over all modules; validation leaves it as it was

    @property
    def validated(self) -> nn.Module:
        """The network that is validated and later used: the average where there is one, else the network itself."""
        return self.network if self.ema is None else self.ema.module

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def step(self, batch: Batch, rates: optimizer.Rates) -> Update:
        """Make one optimizer step on the mean gradient over the global batch, unless that is not finite.

        The device decides, so that the host need not wait for it.

        Args:
            batch: this rank's share.
            rates: learning rate and momentum.
        """
        if self._draws:  # keyed by seed, step and rank, so that a restart repeats it
            torch.manual_seed(int(words(self._run.seed, Purpose.NETWORK, batch.number, self._world.rank)[0, 0]))
        optimizer.set_rates(self.optimizer, rates)
        sums = backward(self.wrapped, batch, self._run, self._world, self.optimizer, self._known_share)
        exchange = self._exchange.ended()
        norm = clip(self.network, self._run.optim.clip_norm)
        # The gradient is already averaged over the ranks, so they all see the same norm and decide alike.
        skipped = ~torch.isfinite(norm)
        self.optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]
        with named("optimizer"):
            self.optimizer.step()
            if self.ema is not None:
                self.ema.follow(self.network, skipped)
        return Update(sums, norm, skipped, exchange)

    def state(self) -> dict[str, Any]:
        """The part of a checkpoint that holds tensors."""
        return {
            "model": self.network.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scored": self.validated.state_dict(),
        }


def seeded_network(run: Run, world: World) -> nn.Module:
    """The run's network on this rank's device, with random weights from the run's seed, the same on every rank.

    Raises:
        ConfigError: batch norm cannot be synchronised on CPUs, or see `models.network.build_network`.
    """
    torch.manual_seed(run.seed)
    torch.use_deterministic_algorithms(run.scaling.deterministic)
    torch.backends.cudnn.benchmark = not run.scaling.deterministic  # shapes are fixed, so that trying pays
    if world.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what bf16 does not take, as cuDNN has it for convolutions
    network = build_network(run.model).to(world.device)
    if run.scaling.deterministic and world.device.type == "cuda":
        make_deterministic(network)
    if run.model.sync_batch_norm and world.size > 1:
        if world.device.type == "cpu":
            raise ConfigError("model.sync_batch_norm works on GPUs only; leave it out on CPUs, or use one worker")
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return network


def _restore(saved: Mapping[str, Any], **parts: nn.Module | torch.optim.Optimizer) -> None:
    """Load parts of a checkpoint by name.

    Raises:
        CheckpointError: one is missing, or is not of this network.
    """
    for name, part in parts.items():
        try:
            part.load_state_dict(saved[name])
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint of step {saved['state']['step']} does not hold the {name} here: {error!r:.200}; "
                "delete it, so that the run goes on from the one before"
            ) from error
