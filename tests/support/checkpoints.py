"""A checkpoint as a run leaves it, without the training: a network of random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hemodist.config.data import AugmentConfig, BatchConfig
from hemodist.config.operation import TrackingConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig
from hemodist.dataset.dataset import DataSet
from hemodist.models.checkpoints import Checkpoints
from hemodist.models.network import build_network, last_linear
from hemodist.storage.store import Store

SHARDING: dict[str, Any] = {
    "size": 64, "encoding": "jpeg", "quality": 95, "crop_head": False, "min_brain_fraction": 0.0,
    "windows": [{"name": "brain", "center": 40.0, "width": 80.0}, {"name": "subdural", "center": 80.0, "width": 200.0},
                {"name": "soft_tissue", "center": 40.0, "width": 380.0}],
}  # fmt: skip


def run_of(**changes: Any) -> Run:
    """A run of a small network on images of 32 pixels."""
    run = Run(
        name="x",
        batch=BatchConfig(global_batch_size=16, mix_group=8, eval_batch_size=16),
        augment=AugmentConfig(flip_horizontal=0.5),
        model=ModelConfig(name="resnet18", image_size=32),
        tracking=TrackingConfig(mode="disabled"),
    )
    return replace(run, data=replace(run.data, decode_threads=1), **changes)


def network_of(run: Run, seed: int = 0) -> torch.nn.Module:
    """Random weights, made larger at the end so that probabilities spread."""
    torch.manual_seed(seed)
    network = build_network(run.model)
    head = network.get_submodule(last_linear(network) or "")
    with torch.no_grad():
        head.get_parameter("weight").mul_(20)
    return network


def make_checkpoint(
    folder: Path,
    *,
    dataset: DataSet | None = None,
    sharding: dict[str, Any] | None = None,
    run: Run | None = None,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Write a run's folder with one checkpoint; `changes` replaces entries of its content, None removes one."""
    run = run or run_of()
    network = network_of(run, seed)
    content: dict[str, Any] = {
        "model": network.state_dict(),
        "ema": None,
        "optimizer": {},
        "scored": network.state_dict(),
        "run": run.to_dict(),
        "sharding": dataset.manifest.config if dataset else sharding or SHARDING,
        "prevalence": [0.144, 0.004, 0.048, 0.035, 0.048, 0.063],
        "state": {
            "dataset": dataset.manifest.digest if dataset else "",
            "split": "",
            "seed": 0,
            "step": 7,
            "history": [],
        },
    }
    content = {name: value for name, value in (content | changes).items() if value is not None or name == "ema"}
    Checkpoints(Store.open(folder), keep=1).save(content, 7, 0.5)
    return folder
