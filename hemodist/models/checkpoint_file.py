"""The `.pt` file of a checkpoint: read and checked."""

from __future__ import annotations

import dataclasses
import io
import zipfile
import zlib
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le

from hemodist.dataset.manifest import Count
from hemodist.dataset.typed import typed
from hemodist.errors import UserError


class CheckpointError(UserError):
    """There is no checkpoint that can be used."""


class DamagedError(CheckpointError):
    """A checkpoint's file is missing, or not what was written."""


@dataclass(frozen=True)
class EpochRow:
    """What reports read of a row of the history; NaN and None where a score is not defined."""

    epoch: Count
    step: Count
    train_loss: float | None
    valid_loss: float | None
    accuracy_multi: float | None
    weighted_log_loss: float | None
    auc_any: float | None
    seconds: float


@dataclass(frozen=True)
class StatePart:
    """What is read of where a run stood, by whoever does not go on with it."""

    dataset: str
    split: str
    seed: int
    step: Count
    history: list[EpochRow]


@dataclass(frozen=True)
class PlainParts:
    """What a checkpoint holds beside tensors. Those of version 0.1.0 have no kinds."""

    run: dict[str, Any]
    state: StatePart
    sharding: dict[str, Any] | None = None
    labels: list[str] | None = None
    prevalence: list[Annotated[float, Ge(0), Le(1)]] | None = None
    kinds: list[int] | None = None


PLAIN = tuple(field.name for field in dataclasses.fields(PlainParts))


def load(content: bytes, where: str) -> dict[str, Any]:
    """The content of a `.pt` file, read without executing code.

    Raises:
        CheckpointError: it is no checkpoint of hemodist.
    """
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{where} cannot be read as a checkpoint: {error}") from error
    parts = ("model", "scored", "run", "state")
    if not isinstance(state, dict) or not all(isinstance(state.get(name), dict) for name in parts):
        raise CheckpointError(f"{where} is no checkpoint of hemodist: it lacks {', '.join(parts)}")
    for name in ("model", "scored"):
        if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state[name].items()):
            raise CheckpointError(f"{where} is no checkpoint of hemodist: {name} holds what is no tensor")
    try:
        typed(PlainParts, {name: state[name] for name in PLAIN if name in state})
    except ValueError as error:
        raise CheckpointError(f"{where} is not what hemodist writes: {error}; take another checkpoint") from None
    return state


def load_by_own_sums(content: bytes, where: str) -> dict[str, Any]:
    """As `load`, of a file that no record vouches for, after a look at the CRC-32 that its format keeps of each part.

    Raises:
        DamagedError: it is not whole.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as parts:
            broken = parts.testzip()
        if broken is None:
            return load(content, where)
    except (zipfile.BadZipFile, CheckpointError, EOFError, ValueError, zlib.error) as error:
        raise DamagedError(f"{where} cannot be read: {error}") from error
    raise DamagedError(f"{where} is damaged in {broken}")
