"""The `.pt` file of a checkpoint: read, checked, and copied before it is written behind the training."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any

import torch

from hemodist.errors import UserError


class CheckpointError(UserError):
    """There is no checkpoint that can be used."""


class DamagedError(CheckpointError):
    """A checkpoint's file is missing, or not what was written."""


def load(content: bytes, where: str) -> dict[str, Any]:
    """The content of a `.pt` file, read without executing code.

    Raises:
        CheckpointError: it is no checkpoint of hemodist.
    """
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{where} cannot be read as a checkpoint: {error}") from error
    if not isinstance(state, dict) or not {"model", "scored", "run", "state"} <= state.keys():
        raise CheckpointError(f"{where} is no checkpoint of hemodist: it lacks model, scored, run or state")
    if not all(isinstance(state[name], dict) for name in ("model", "scored", "run", "state")) or not isinstance(
        state["state"].get("step"), int
    ):
        raise CheckpointError(f"{where} is no checkpoint of hemodist: model, scored, run or state is of another type")
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


def copied(value: Any, known: dict[Any, torch.Tensor]) -> Any:
    """The same with every tensor copied into this process's memory; tensors that share memory share the copy too."""
    if isinstance(value, torch.Tensor):
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        if key not in known or not value.numel():
            known[key] = value.detach().to("cpu", copy=True)
        return known[key]
    if isinstance(value, dict):
        return {name: copied(item, known) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(item, known) for item in value)
    return value
