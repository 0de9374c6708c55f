"""The networks that predict: what every chunk is told of them, and their checkpoints, opened once a process."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from hemodist.config.run import Run
from hemodist.errors import ConfigError
from hemodist.models.fold_runs import members
from hemodist.models.trained import PICTURE_FIELDS, Trained, open_trained, views
from hemodist.predict.options import PredictConfig, Settings
from hemodist.scoring.heat_maps import target_layer
from hemodist.storage.store import Store


def settings_of(config: PredictConfig) -> Settings:
    """What every chunk is told, with absolute paths, since workers have another working directory.

    Raises:
        ConfigError: the device that is asked for is not there.
        CheckpointError: a k-fold run is not finished.
    """
    gpu = torch.cuda.is_available() and not config.workers
    if config.device == "cuda" and not gpu:
        raise ConfigError("device cuda needs a GPU in this process and --workers 0; use --device auto")
    checkpoints = [run for where in (config.checkpoint, *config.ensemble) for run in members(where)]
    return Settings(
        checkpoints=tuple(one if "://" in one else str(Path(one).expanduser().resolve()) for one in checkpoints),
        tta=config.tta,
        repair_any=config.repair_any,
        explain=None if config.explain is None else Store.open(config.explain).uri,
        explain_above=config.explain_above,
        eval_batch_size=config.eval_batch_size,
        cache=None if config.cache is None else str(Path(config.cache).expanduser().resolve()),
        cache_gb=config.cache_gb,
        device="cuda" if gpu and config.device != "cpu" else "cpu",
    )


def check_settings(settings: Settings) -> tuple[Trained, ...]:
    """Open all checkpoints, and check that each can do what is asked for.

    Raises:
        UserError: one cannot be read, or cannot do what is asked for.
    """
    opened = networks(settings.checkpoints)
    for member in opened:
        if settings.tta:
            views(member.run.augment)
        if settings.explain is not None:
            target_layer(member.network, member.run.model.image_size)
    return opened


def no_heat_maps(trained: Sequence[Trained]) -> str:
    """Why these networks have no heat maps; empty where they do."""
    try:
        for member in trained:
            target_layer(member.network, member.run.model.image_size)
    except ConfigError as error:
        return str(error)
    return ""


@functools.lru_cache(maxsize=1)
def networks(checkpoints: tuple[str, ...]) -> tuple[Trained, ...]:
    """The checkpoints, opened; those of the last call are kept.

    Raises:
        UserError: one cannot be read.
    """
    return tuple(open_trained(where) for where in checkpoints)


def picture_settings(member: Trained) -> str:
    """What decides how the pictures of a checkpoint look, as text."""
    return json.dumps([member.sharding.get(name) for name in PICTURE_FIELDS])


def run_of(member: Trained, settings: Settings) -> Run:
    """A network's run with the batch size and the cache that predicting was told."""
    run = member.run
    given = {name: value for name in ("cache", "cache_gb") if (value := getattr(settings, name)) is not None}
    size = run.batch.eval_batch_size if settings.eval_batch_size is None else settings.eval_batch_size
    batch = replace(run.batch, eval_batch_size=size)
    # A corrupt sample is a row of the rejected ones, whatever the training did with such.
    return replace(run, batch=batch, data=replace(run.data, on_corrupt="mask", **given))
