"""Builds with the settings that suit a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hemodist.dataset.manifest import Manifest
from shards.building import build
from shards.building.options import ShardConfig


def config(source: Path, output: Path, **changes: Any) -> ShardConfig:
    """Shards of eight slices, 32 pixels wide."""
    return ShardConfig(**({"source": str(source), "output": str(output), "samples_per_shard": 8, "size": 32} | changes))


def make(source: Path, output: Path, mapper: build.Mapper | None = None, **changes: Any) -> Manifest:
    """Plan and run, or find it finished."""
    todo = build.plan(config(source, output, **changes))
    return todo.manifest if isinstance(todo, build.Finished) else build.run(todo, mapper)[0]
