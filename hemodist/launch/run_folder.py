"""What is read from a finished run's folder, each file checked: a folder may be damaged, or somebody else's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge, Le, MinLen

from hemodist.config.run import Run
from hemodist.dataset.labels import LABELS
from hemodist.dataset.manifest import Count
from hemodist.dataset.typed import typed
from hemodist.errors import ConfigError
from hemodist.metrics.bootstrap import F64
from hemodist.models.fold_runs import FINISHED
from hemodist.scoring.write_results import read_predictions
from hemodist.storage.store import Store
from hemodist.training.run_checkpoints import HISTORY

T = TypeVar("T")

_Positive = Annotated[float, Ge(0), Le(1e12)]
_Score = Annotated[float, Ge(-1e12), Le(1e12)] | None


@dataclass(frozen=True)
class _Digests:
    dataset: str
    split: str


@dataclass(frozen=True)
class _Result:
    run: dict[str, Any]
    state: _Digests


@dataclass(frozen=True)
class _Epoch:
    """A row of the history as far as a study shows it."""

    epoch: Count
    step: Count
    seconds: _Positive
    images_per_s: _Positive
    weighted_log_loss: _Score
    auc_any: _Score
    train_loss: _Score = None
    valid_loss: _Score = None
    accuracy_multi: _Score = None


@dataclass(frozen=True)
class _History:
    epochs: Annotated[tuple[_Epoch, ...], MinLen(1)]


def result(store: Store) -> dict[str, Any]:
    """What a finished run was: its configuration `run`, and in `state` the digests of data set and split.

    Raises:
        ConfigError: the file is not what such a run writes.
        StoreError: it cannot be read.
    """

    def read(content: bytes) -> dict[str, Any]:
        found = typed(_Result, content)
        return {"run": found.run, "state": vars(found.state)}

    return _checked(store, FINISHED, read)


def history(store: Store, run: Run) -> list[dict[str, Any]]:
    """A row an epoch, one at least; each holds the score by which the run chose its checkpoint.

    Raises:
        ConfigError: the file is not what a run writes.
        StoreError: it cannot be read.
    """

    def read(content: bytes) -> list[dict[str, Any]]:
        typed(_History, b'{"epochs": ' + content + b"}")
        rows: list[dict[str, Any]] = json.loads(content)
        if not all(isinstance(row.get(run.stop.score, ""), int | float | None) for row in rows):
            raise ValueError(f"an epoch has no {run.stop.score}")
        return rows

    return _checked(store, HISTORY, read)


def predictions(store: Store, file: str, keys: pa.Array) -> F64:
    """Probabilities of the slices `keys`, float64 [n, 6]; nan where a run has not answered, or not learned a label.

    Raises:
        ConfigError: the file is not what a run writes.
        StoreError: it cannot be read.
    """

    def read(content: bytes) -> F64:
        named, values = read_predictions(content)
        place = pc.index_in(keys, value_set=named.combine_chunks()).fill_null(-1).to_numpy()
        padded = np.vstack([values, np.full((1, len(LABELS)), np.nan)])  # -1 is the last row
        answered: F64 = padded[place]
        return answered

    return _checked(store, file, read)


def _checked(store: Store, file: str, read: Callable[[bytes], T]) -> T:
    content = store.read(file)
    try:
        return read(content)
    except (ValueError, RecursionError) as error:
        text = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"{store.uri}/{file} is not what a finished run leaves: {text}; take the file as it was, or delete "
            f"{store.uri} and train it again"
        ) from error
