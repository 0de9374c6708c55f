"""Builds with the settings that suit a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from hemodist.dataset.labels import LABELS
from hemodist.dataset.manifest import Manifest
from shards.building import build
from shards.building.options import ShardConfig
from shards.packing import identity, record


def config(source: Path, output: Path, **changes: Any) -> ShardConfig:
    """Shards of eight slices, 32 pixels wide."""
    return ShardConfig(**({"source": str(source), "output": str(output), "samples_per_shard": 8, "size": 32} | changes))


def make(source: Path, output: Path, mapper: build.Mapper | None = None, **changes: Any) -> Manifest:
    """Plan and run, or find it finished."""
    todo = build.plan(config(source, output, **changes))
    return todo.manifest if isinstance(todo, build.Finished) else build.run(todo, mapper)[0]


def record_of(samples: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows of `record.SCHEMA` of samples by their patient, study, series and slice (all may lack), image and label."""
    made = []
    for number, sample in enumerate(samples):
        row: dict[str, Any] = dict.fromkeys(record.SCHEMA.names, 0) | {"key": str(number), "path": ""}
        row |= {"reason": None, "detail": None, "inverted": None, "pixel_digest": sample["image"].ljust(16, b"\0")}
        row |= dict.fromkeys(LABELS, sample.get("label", 0))
        row |= {kind: identity.pseudonym(sample.get(kind), kind, b"key") for kind in identity.KINDS}
        for kind in (*identity.KINDS, "slice"):
            row[f"{kind}_number"] = identity.number(sample.get(kind), kind, b"key")
        made.append(row)
    return pa.Table.from_pylist(made, record.SCHEMA)
