"""Reads W&B's offline log: protocol buffers in the record format of LevelDB's log, after a header of 7 bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK = 32768
_HEADER = 7


def records(file: Path) -> Iterator[Any]:
    """The whole records of a `run-*.wandb` file; a torn end is left out."""
    content = file.read_bytes()
    assert content[:4] == b":W&B"
    at, parts = _HEADER, b""
    while at + _HEADER <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + _HEADER])
        if kind == 0:
            return
        parts = (b"" if kind in (1, 2) else parts) + content[at + _HEADER : at + _HEADER + size]
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
        at += _HEADER + size


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Configuration and history rows of an offline run's folder."""
    (file,) = folder.glob("run-*.wandb")
    config: dict[str, Any] = {}
    history = []
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind in ("run", "config"):
            update = record.run.config.update if kind == "run" else record.config.update
            for item in update:
                _put(config, item)
        elif kind == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                _put(row, item)
            history.append(row | {"_step": record.history.step.num})
    return config, history


def steps_logged(run: Path) -> list[int]:
    """The step of each row of a run's only offline log, in the order in which they were written."""
    (folder,) = (run / "wandb").glob("offline-run-*")
    return [row["step"] for row in read(folder)[1]]


def _put(values: dict[str, Any], item: Any) -> None:
    *parents, last = list(item.nested_key) or [item.key]
    for name in parents:
        values = values.setdefault(name, {})
    values[last] = json.loads(item.value_json)
