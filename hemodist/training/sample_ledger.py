"""Which samples each committed step has read: for audits, and for tests of what a restart repeats or loses.

A step is committed once a checkpoint holds it. `ledger/00000010-00000020.jsonl` belongs to the checkpoint of step 20
and holds the steps 10 to 19, one JSON object a line: `{"step": 10, "epochs": {"0": ["key", ...], "1": [...]}}`, the
keys in the order of the global batch. What an attempt has read after its last checkpoint is never written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hemodist.config.run import Run
from hemodist.plan.prepare import Prepared
from hemodist.storage.store import Store
from hemodist.world import World

FOLDER = "ledger"


class SampleLedger:
    """What the ranks have read since the last checkpoint."""

    @classmethod
    def of(cls, run: Run, prepared: Prepared, world: World, store: Store, step: int) -> SampleLedger | None:
        """The ledger of a run that has made `step` steps; None where it keeps none (`tracking.ledger`)."""
        if not run.tracking.ledger:
            return None
        keys = prepared.dataset.index.column("key").to_pylist()
        return cls(store, world, step, keys, len(prepared.plan.rows))

    def __init__(self, store: Store, world: World, step: int, keys: Sequence[str], epoch_size: int) -> None:
        """Go on after a checkpoint; what was written for later checkpoints, which are damaged or gone, is deleted.

        Args:
            store: the run's folder.
            world: the ranks.
            step: optimizer updates made so far.
            keys: of the index's rows.
            epoch_size: samples an epoch.
        """
        self._store, self._world = store, world
        self._first = step
        self._keys, self._epoch_size = keys, epoch_size
        self._read: list[npt.NDArray[np.int64]] = []
        if world.is_rank_0:
            for name, first, _ in _parts(store):
                if first >= step:
                    store.delete(name)

    def add(self, rows: npt.NDArray[np.int64]) -> None:
        """Add the rows of the index that this rank has read at a step, int64 [b]; called once a step."""
        self._read.append(rows)

    def commit(self) -> Callable[[], None]:
        """Gather the steps added since the last call; all ranks call it together.

        Returns:
            Writes them, on rank 0; to be called just before their checkpoint is written, on any thread.
        """
        parts = self._world.gather(self._read)
        steps, self._read = len(self._read), []
        first, self._first = self._first, self._first + steps
        if not self._world.is_rank_0 or not steps:
            return lambda: None
        name = f"{FOLDER}/{first:08d}-{self._first:08d}.jsonl"
        lines = []
        for number, shares in enumerate(zip(*parts, strict=True)):
            rows = np.concatenate(shares)
            # Read from the position in the endless stream, as the plan does.
            epochs = ((first + number) * len(rows) + np.arange(len(rows))) // self._epoch_size
            by_epoch: dict[str, list[str]] = {}
            for epoch, row in zip(epochs, rows, strict=True):
                by_epoch.setdefault(str(epoch), []).append(self._keys[row])
            lines.append(json.dumps({"step": first + number, "epochs": by_epoch}) + "\n")
        return lambda: self._store.write(name, "".join(lines).encode())


def read_ledger(store: Store, step: int) -> list[dict[str, Any]]:
    """The lines of all steps that the checkpoint of `step` has behind it, as they were committed.

    Raises:
        StoreError: the ledger cannot be read.
    """
    return [
        json.loads(line)
        for name, _, last in _parts(store)
        if last <= step
        for line in store.read(name).decode().splitlines()
    ]


def _parts(store: Store) -> list[tuple[str, int, int]]:
    """Names, first steps and last steps (exclusive) of the files, in order."""
    found = []
    for name, _ in store.list(FOLDER):
        first, _, last = name.rpartition("/")[2].removesuffix(".jsonl").partition("-")
        found.append((name, int(first), int(last)))
    return found
