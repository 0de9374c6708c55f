"""PyTorch Lightning's trainer on one resident batch: the peer of hemodist's loop."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hemodist.bench.rounds import Lap
from hemodist.config.run import Run
from hemodist.loading.dali_pipeline import Batch
from hemodist.training import loss
from hemodist.world import World

WARM = 2
"""Steps before the clock starts: Lightning sets itself up in the first."""


def missing() -> str | None:
    """Why it cannot be measured, or None."""
    if importlib.util.find_spec("lightning") is None:
        return "lightning is not installed; use `uv run --group bench`"
    return None


class Resident:
    """The same batch again and again."""

    def __init__(self, batch: Batch, count: int) -> None:
        self._batch, self._count = (batch.images, batch.targets), count

    def __len__(self) -> int:
        """How often."""
        return self._count

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images and targets."""
        return iter([self._batch] * self._count)


def lap(network: nn.Module, optimizer: torch.optim.Optimizer, run: Run, world: World, batch: Batch, steps: int) -> Lap:
    """Train some steps as Lightning does: forward, loss, backward, clipping, optimizer; nothing is logged or saved.

    Args:
        network: maps images to logits; on the world's device.
        optimizer: of its parameters.
        run: precision and clipping.
        world: one rank.
        batch: on the device.
        steps: that count.
    """
    import lightning

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, given: tuple[torch.Tensor, torch.Tensor], number: int) -> torch.Tensor:
            images, targets = given
            return loss.per_sample(self.network(images), targets).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

    class Clock(lightning.Callback):  # type: ignore[misc]
        """From the end of the last step that does not count to the end of the last one that does."""

        lap = Lap(0.0, 0.0)

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, given: Any, number: int) -> None:
            if number == WARM - 1:
                _wait_for(world)
                self._clock, self._cpu = time.perf_counter(), time.process_time()
            elif number == WARM + steps - 1:
                _wait_for(world)
                images = steps * len(batch.images)
                seconds, cpu = time.perf_counter() - self._clock, time.process_time() - self._cpu
                self.lap = Lap(images / seconds, 1e3 * cpu / images)

    on_gpu = world.device.type == "cuda"
    bf16 = run.scaling.precision == "bf16" or (run.scaling.precision == "auto" and on_gpu)
    clock = Clock()
    trainer = lightning.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if bf16 else "32-true",
        max_epochs=1,
        max_steps=WARM + steps,
        gradient_clip_val=run.optim.clip_norm or None,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), Resident(batch, WARM + steps))
    return clock.lap


def _wait_for(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
