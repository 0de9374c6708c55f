"""A k-fold run: a folder of runs, a fold each, whose networks predict together.

The folder `NAME` holds `folds.json`, which names the runs, and their folders, `NAME-fold0` and so on.
"""

from __future__ import annotations

import json

from pydantic import TypeAdapter, ValidationError

from hemodist.models.checkpoint_file import CheckpointError
from hemodist.storage.store import Store, join

FOLDS = "folds.json"
"""Names the runs of a k-fold run, in the order of their folds."""

FINISHED = "result.json"
"""In a run's folder, written last by what trains several runs: the run is finished, and this is what it was."""

_NAMES = TypeAdapter(list[str])


def is_fold_runs(where: str) -> bool:
    """Whether a path or URI is the folder of a k-fold run."""
    return not where.endswith(".pt") and Store.open(where).size(FOLDS) is not None


def write_names(store: Store, names: list[str]) -> None:
    """Say that a folder holds a k-fold run, and how its runs are called."""
    store.write(FOLDS, (json.dumps(names, indent=2) + "\n").encode())


def members(where: str) -> tuple[str, ...]:
    """The runs whose networks answer for `where`: those of a k-fold run in the order of their folds, else itself.

    Raises:
        CheckpointError: not all folds are trained, or the file that names them is damaged.
    """
    if not is_fold_runs(where):
        return (where,)
    store = Store.open(where)
    try:
        names = _NAMES.validate_json(store.read(FOLDS))
    except ValidationError:
        raise CheckpointError(
            f"{where}/{FOLDS} is damaged; the same jobs/train.py command writes it again, and trains no fold twice"
        ) from None
    unfinished = [name for name in names if store.size(f"{name}/{FINISHED}") is None]
    if unfinished:
        raise CheckpointError(
            f"{where} is a k-fold run of {len(names)} folds, of which {len(unfinished)} are not finished "
            f"({', '.join(unfinished[:3])}); the same jobs/train.py command goes on, or give one fold's run"
        )
    return tuple(join(where, name) for name in names)
