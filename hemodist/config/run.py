"""The configuration of one run: frozen dataclasses, checked before anything is started.

A recipe returns one whole `Run`; the command line overrides fields of it. The meaning and range of a field, and whether
it decides a result, stand on the field.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from hemodist.config.data import EACH_FOLD, AugmentConfig, BatchConfig, DataConfig, MixConfig
from hemodist.config.fields import MANY, DecidesSamples, Often, Range, check_ranges
from hemodist.config.operation import CheckpointConfig, ScalingConfig, TrackingConfig
from hemodist.config.shares import check_batch
from hemodist.config.training import ModelConfig, OptimConfig, StopConfig
from hemodist.dataset.typed import typed
from hemodist.errors import ConfigError


@dataclass(frozen=True)
class Run:
    """One whole run."""

    name: Annotated[str, Often()]
    """Name of the run; the same name and output continue a run that was interrupted."""

    output: Annotated[str, Often()] = "runs"
    """Folder or URI; the run writes below `output/name`.
    With workers on several machines it must be a URI or a folder that they all share, such as NFS."""

    seed: Annotated[int, Range(0, MANY), DecidesSamples(), Often()] = 0
    """Seed of everything that is drawn, 0 to 2**31 - 1."""

    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Run:
        """What `to_dict` wrote.

        Raises:
            ConfigError: it has fields that this version does not know, or lacks a name.
        """
        try:
            run = typed(cls, values)
        except ValueError as error:
            raise ConfigError(f"the configuration is not one that this hemodist writes: {error}") from None
        known = {f"{part}.{name}" for part, inner in run.to_dict().items() for name in _names(inner)}
        if unknown := sorted({f"{part}.{name}" for part, inner in values.items() for name in _names(inner)} - known):
            raise ConfigError(f"the configuration is of another version of hemodist: it has {', '.join(unknown)}")
        return run


def _names(value: Any) -> list[str]:
    return list(value) if isinstance(value, dict) else [""]


def check(run: Run) -> None:
    """Check everything that can be checked without the data set and the machine.

    Raises:
        ConfigError: naming the field, its value and what works.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", run.name):
        raise ConfigError(
            f"name {run.name!r}: use 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"
        )
    if not run.data.dataset:
        raise ConfigError("no data set given; add --data.dataset PATH (made by `python jobs/shard.py`)")
    if run.data.valid_fold == EACH_FOLD:
        raise ConfigError(
            "data.valid_fold all is for jobs/train.py only, which trains a run for each fold; "
            f"give one, 0 to {run.data.folds - 1}"
        )
    _check_sizes(run)
    check_ranges(run)


MOST_FOLDS = 100
"""Of a k-fold run: each is a whole training."""


def runs_of_folds(run: Run) -> list[Run]:
    """The runs of a k-fold run, one for each fold that is not the test fold, in the folder `output/name`.

    Raises:
        ConfigError: there are too many folds.
    """
    folds = run.data.folds
    if not 2 <= folds <= MOST_FOLDS:
        raise ConfigError(f"data.valid_fold all of data.folds {folds}: use 2 to {MOST_FOLDS} folds")
    return [
        replace(
            run,
            name=f"{run.name}-fold{fold}",
            output=f"{run.output.rstrip('/')}/{run.name}",
            data=replace(run.data, valid_fold=fold),
        )
        for fold in range(folds)
        if fold != run.data.test_fold
    ]


def _check_sizes(run: Run) -> None:
    fewest, most = run.scaling.min_workers, run.scaling.workers
    if fewest is not None and not 1 <= fewest <= most:
        raise ConfigError(
            f"scaling.min_workers {fewest} is out of range; use 1 to scaling.workers, {most}, or leave it out"
        )
    if run.mix.kind != "none" and run.batch.mix_group < 2:
        raise ConfigError(
            f"mix.kind {run.mix.kind} needs partners, and batch.mix_group is {run.batch.mix_group}; use 2 or more"
        )
    for world in range(run.scaling.fewest, max(most, 1) + 1):
        check_shares(run.batch, world)


def check_shares(batch: BatchConfig, world: int) -> None:
    """Check that a global batch can be dealt out to `world` ranks, and a share to its micro-batches.

    Raises:
        ConfigError: naming what works.
    """
    check_batch(batch.global_batch_size, batch.mix_group, world)
    groups = batch.global_batch_size // batch.mix_group // world
    if batch.accumulate > groups:
        raise ConfigError(
            f"batch.accumulate {batch.accumulate}, but a worker reads as few as {groups} mix groups a step; "
            f"use batch.accumulate {groups} or less, or a larger global_batch_size"
        )
