"""What the tests on a GPU share: a run, and how pixels are compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hemodist.config.data import AugmentConfig, BatchConfig, MixConfig
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig, OptimConfig
from hemodist.doctor import decode
from hemodist.loading.pixels import STD
from hemodist.training.loop import Training
from hemodist.world import World


def run_of(folder: Path, **changes: object) -> Run:
    """A run of a small network without batch norm and dropout, in float32, with crops, rotations and CutMix."""
    run = Run(
        name="x",
        output=str(folder / "runs"),
        batch=BatchConfig(global_batch_size=32, mix_group=8, block_shards=2, eval_batch_size=16),
        augment=AugmentConfig(min_crop_area=0.6, flip_horizontal=0.5, rotation_degrees=10.0, contrast=0.1),
        mix=MixConfig("cutmix", probability=0.5),
        # Its dropout is switched off by the tests: the draws of a GPU are not those of a CPU.
        model=ModelConfig(name="squeezenet1_1", image_size=64),
        optim=OptimConfig(name="sgd", lr=1e-3, epochs=2, schedule="constant", warmup_steps=0),
        scaling=ScalingConfig(workers=0, precision="fp32"),
        tracking=TrackingConfig(mode="disabled", log_every=1),
    )
    run = replace(run, data=replace(run.data, dataset=str(folder / "data"), decode_threads=2))
    return replace(run, **changes)  # type: ignore[arg-type]


def without_dropout(network: torch.nn.Module) -> None:
    """Let every dropout pass everything."""
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def trained(world: World, run: Run, stop: int, device: str) -> tuple[list[float], list[list[str]], dict[str, Any]]:
    """Go on to step `stop` on `device`, save, and tell this rank's losses, keys by step, and the parameters."""
    world = replace(world, device=torch.device(device))
    training = Training(run, world, silent)
    without_dropout(training.learner.network)
    losses, keys = [], []
    for batch in training.batches():
        losses.append(float(training.update(batch).sums[0]))
        keys.append(list(batch.keys))
        if training.step == stop:
            break
    training.save()
    training.checkpoints.wait()
    parameters = {name: value.detach().cpu().numpy() for name, value in training.learner.network.named_parameters()}
    return losses, keys, parameters


def grey_levels(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The absolute difference of normalised images [b, 3, h, w] in grey levels, on the CPU."""
    std = torch.tensor(STD).reshape(1, 3, 1, 1)
    return (one.float().cpu() - other.float().cpu()).abs() * 255 * std


def assert_same_pictures(one: torch.Tensor, other: torch.Tensor) -> None:
    """The same but for what two decoders may differ by."""
    assert one.shape == other.shape
    difference = grey_levels(one, other)  # a change of contrast multiplies it by at most 1.2
    assert difference.max() <= decode.MOST
    assert difference.mean() <= decode.MEAN


def silent(event: object) -> None:
    """A `Tell` that nobody hears."""
