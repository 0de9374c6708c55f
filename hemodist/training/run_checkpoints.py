"""The checkpoints of a run as its ranks use them: which one to go on from, when the next is due, what it holds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from hemodist.config.run import Run
from hemodist.dataset.labels import LABELS
from hemodist.metrics.plain_json import plain_json
from hemodist.models.checkpoints import Checkpoints
from hemodist.models.network import has_batch_norm
from hemodist.plan.prepare import Prepared, check_resume
from hemodist.storage.store import Store
from hemodist.training.early_stopping import score_as_loss
from hemodist.training.learner import Learner
from hemodist.training.run_state import RunState
from hemodist.world import World

HISTORY = "history.json"
"""A row an epoch, beside the checkpoints, for whoever reads no tensors."""


class RunCheckpoints:
    """Reads and writes the checkpoints of one run. Rank 0 chooses and writes; the others read what it has chosen."""

    def __init__(self, run: Run, prepared: Prepared, world: World, store: Store) -> None:
        """Read and write nothing yet.

        Args:
            run: the configuration.
            prepared: what follows from it.
            world: the ranks.
            store: the run's folder.
        """
        self._run, self._prepared, self._world, self._store = run, prepared, world, store
        self._files = Checkpoints(store, run.checkpoint.keep)
        self._saved_at, self._time_is_up = time.monotonic(), False

    def newest(self, warn: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest whole checkpoint, or None; what is left of later ones is deleted. All ranks call it together.

        Raises:
            UserError: it belongs to another run, another driver has taken this one over, or the store cannot be read.
        """
        world = self._world
        if world.is_rank_0:
            world.check_still_owner()
            self._files.mend_records(warn)
        newest = self._files.newest(warn) if world.is_rank_0 else None
        step = world.broadcast(newest["state"]["step"] if newest else None)
        if world.is_rank_0:
            world.check_still_owner()
            self._files.delete_leftovers(step)
        if step is None:
            return None
        saved = newest or self._files.at(step)
        batch_norm = has_batch_norm(self._run.model)
        check_resume(saved, self._prepared, self._run, self._store.uri, batch_norm=batch_norm)
        return saved

    def time_is_up(self) -> bool:
        """On rank 0, whether its clock asks for a checkpoint; False on other ranks."""
        minutes = self._run.checkpoint.every_minutes
        return self._world.is_rank_0 and 0 < minutes <= (time.monotonic() - self._saved_at) / 60

    def agree(self, time_is_up: bool) -> None:
        """Take over what rank 0's clock says, on every rank."""
        self._time_is_up = time_is_up

    def is_due(self, step: int) -> bool:
        """True where a checkpoint within the epoch is wanted after `step`; the same on every rank."""
        every = self._run.checkpoint.every_steps
        return self._time_is_up or (bool(every) and step % every == 0)

    def count_anew(self) -> None:
        """The minutes until the next checkpoint begin now; every rank calls it at every checkpoint."""
        self._saved_at, self._time_is_up = time.monotonic(), False

    def write(
        self, learner: Learner, state: RunState, write_ledger: Callable[[], None], then: Callable[[], None]
    ) -> None:
        """Write ledger, history and checkpoint on another thread, beside the training that follows; on rank 0 only.

        The checkpoint comes last, so that what stands beside it is never older. Nothing is written into a folder that
        another driver has taken over.

        Args:
            learner: whose weights are saved.
            state: where the run stands. Where an epoch has just ended, its score is that of the checkpoint.
            write_ledger: writes the samples read since the last checkpoint.
            then: called once the checkpoint is there.

        Raises:
            UserError: the checkpoint before could not be written, or the folder was no longer this run's.
        """
        content = learner.state() | {
            "run": self._run.to_dict(),
            "sharding": self._prepared.dataset.manifest.config,
            "labels": list(LABELS),
            "prevalence": self._prepared.train_prevalence.tolist(),
            "kinds": self._prepared.kinds.tolist(),
            "state": state.to_dict(),
        }
        row = state.history[-1] if state.history and state.history[-1]["step"] == state.step else None
        score = score_as_loss(row, self._run.stop.score) if row else None
        history = (json.dumps([plain_json(row) for row in state.history], indent=2) + "\n").encode()

        def write_beside() -> None:
            self._world.check_still_owner()
            write_ledger()
            self._store.write(HISTORY, history)

        self._files.save_in_background(content, state.step, score, then, first=write_beside)

    def wait(self) -> None:
        """Return when the last checkpoint is written.

        Raises:
            UserError: it could not be written, or the folder was no longer this run's.
        """
        self._files.wait()

    def best_step(self) -> int | None:
        """The step of the checkpoint with the best score, by the records alone. All ranks call it together."""
        step: int | None = self._world.broadcast(self._files.best_step() if self._world.is_rank_0 else None)
        return step

    def best(self, warn: Callable[[str], None]) -> dict[str, Any]:
        """The whole checkpoint with the best score. All ranks call it together.

        Raises:
            CheckpointError: there is none.
        """
        best = self._files.best(warn) if self._world.is_rank_0 else None
        step = self._world.broadcast(best["state"]["step"] if best else None)
        return best or self._files.at(step)

    def content(self, step: int) -> tuple[str, bytes]:
        """File name and bytes of the checkpoint of a step.

        Raises:
            StoreError: there is none.
        """
        return self._files.content(step)
