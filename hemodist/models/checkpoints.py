"""The checkpoints of a run: written whole, checked when they are read, and read without executing code.

A checkpoint is two files below the run's folder: `step-00000123.pt` (torch's format) and, written after it, its record
`step-00000123.json`. The record holds size and SHA-256 of the first file, the step, the score, and what tells whether a
run may go on from it, and a SHA-256 of all that. One file without the other is no checkpoint; beside a damaged record
the first file may be whole, by the sums that torch's format carries, and then gets a new one.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable
from typing import Any

import torch

from hemodist.dataset.digest import sha256
from hemodist.models.checkpoint_file import CheckpointError, DamagedError, load, load_by_own_sums
from hemodist.models.checkpoint_record import FOLDER, CheckpointRecord
from hemodist.storage.store import Store, StoreError
from hemodist.world import HostCopy

_LOG = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, store: Store, keep: int) -> None:
        """Set up.

        Args:
            store: the run's folder.
            keep: newest checkpoints to keep, beside the best one.
        """
        self._store = store
        self._keep = keep
        self._writing: threading.Thread | None = None
        self._failure: BaseException | None = None

    def records(self, damaged: Callable[[str, str], None] = lambda name, why: None) -> list[CheckpointRecord]:
        """The records of all checkpoints, oldest first, without those that are damaged or were just deleted.

        Args:
            damaged: told the name of each damaged record, and why it is.

        Raises:
            StoreError: the store cannot be read; whether the checkpoints in it are whole is not known then.
        """
        found = []
        for name, _ in self._store.list(FOLDER):
            if name.endswith(".json"):
                try:
                    found.append(CheckpointRecord.read(self._store.read(name), name))
                except ValueError as error:  # of JSON and of text too
                    damaged(name, str(error))
                except StoreError:
                    if self._store.size(name) is not None:
                        raise
        return sorted(found, key=lambda record: record.step)

    def mend_records(self, warn: Callable[[str], None]) -> None:
        """Write each damaged record anew where its checkpoint is whole; `warn` is told of every damaged one.

        Raises:
            StoreError: the store cannot be read or written.
        """
        damaged: dict[str, str] = {}
        self.records(damaged.__setitem__)
        for name, why in damaged.items():
            said = f"the record {self._store.uri}/{name} of a checkpoint is damaged: {why}"
            try:
                self._store.write(name, self._record_of(name.removesuffix(".json")).to_bytes())
            except DamagedError as error:
                warn(f"{said}; so is the checkpoint, which is not used: {error}")
            else:
                warn(f"{said}; the checkpoint itself is whole, and has a new record")

    def _record_of(self, name: str) -> CheckpointRecord:
        """A new record of the checkpoint `name`, which has no other witness than the sums in its own file.

        Raises:
            DamagedError: it is not whole.
        """
        where = f"{self._store.uri}/{name}.pt"
        try:
            content = self._store.read(f"{name}.pt")
        except StoreError as error:
            if self._store.size(f"{name}.pt") is not None:
                raise
            raise DamagedError(f"{where} is missing") from error
        state = load_by_own_sums(content, where)
        record = CheckpointRecord.of(state, content, state["state"]["step"], state.get("score"))
        if record.name != name:
            raise DamagedError(f"{where} is of step {record.step}")
        return record

    def save(self, state: dict[str, Any], step: int, score: float | None) -> CheckpointRecord:
        """Write a checkpoint, then delete all but the newest ones and the best.

        Args:
            state: tensors and plain values only, so that it can be read without executing code.
            step: optimizer updates made.
            score: less is better; None where not scored.
        """
        self.wait()
        return self._save(state, step, score)

    def save_in_background(
        self,
        state: dict[str, Any],
        step: int,
        score: float | None,
        then: Callable[[], object] = lambda: None,
        first: Callable[[], object] = lambda: None,
    ) -> None:
        """As `save`, but written by a thread; it returns once the tensors' copies are on their way to this process.

        It first waits for an earlier checkpoint that is still being written, and raises the error that this one failed
        with. The thread calls `first` before it writes anything, and `then` once the checkpoint is there.
        """
        self.wait()
        content = HostCopy(state)

        def write() -> None:
            try:
                first()
                self._save(content.read(), step, score)
                then()
            except BaseException as failure:  # raised where somebody waits
                self._failure = failure

        self._writing = threading.Thread(target=write)
        self._writing.start()

    def wait(self) -> None:
        """Wait until the checkpoint that `save_in_background` began is written.

        Raises:
            StoreError: it could not be written.
        """
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _save(self, state: dict[str, Any], step: int, score: float | None) -> CheckpointRecord:
        buffer = io.BytesIO()
        torch.save(state | {"score": score}, buffer)
        content = buffer.getbuffer()
        record = CheckpointRecord.of(state, content, step, score)
        self._store.write(f"{record.name}.pt", content)
        self._store.write(f"{record.name}.json", record.to_bytes())
        self._prune()
        return record

    def newest(self, warn: Callable[[str], None]) -> dict[str, Any] | None:
        """The content of the newest checkpoint that is whole, or None; `warn` is told of damaged ones.

        Raises:
            CheckpointError: a file is what was written, but torch cannot read it.
            StoreError: the store cannot be read; whether the checkpoints in it are whole is not known then.
        """
        for record in reversed(self.records()):
            try:
                return self._read(record)
            except DamagedError as error:
                warn(f"{error}; going on with the one before")
        return None

    def delete_leftovers(self, step: int | None) -> None:
        """Delete what an earlier attempt left and this one does not go on from; after `mend_records`, before any save.

        These are checkpoints beyond the step that the run goes on from, which are damaged and would count as newest,
        so that whole ones would be deleted in their place; and what a killed process left: parts of files, and files
        without a record.

        Args:
            step: that the run goes on from; None where there was no whole checkpoint.
        """
        kept = {record.name for record in self.records() if step is not None and record.step <= step}
        stale = sorted(name for name, _ in self._store.list(FOLDER) if name.rpartition(".")[0] not in kept)
        for name in stale:  # in this order a record goes before its checkpoint
            self._store.delete(name)
        self._store.delete_partial(FOLDER)

    def newest_origin(self) -> dict[str, Any] | None:
        """Run and digests of the newest checkpoint, from its record; None where there is none or it does not say."""
        records = self.records()
        return (records[-1].origin or None) if records else None

    def best_step(self) -> int | None:
        """The step with the best score, from the records alone; the newest where none is scored, None without any."""
        records = self.records()
        best = _best(records) or (records[-1] if records else None)
        return best.step if best else None

    def at(self, step: int) -> dict[str, Any]:
        """The content of the checkpoint of a step.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        for record in self.records():
            if record.step == step:
                return self._read(record)
        raise CheckpointError(f"{self._store.uri} holds no checkpoint of step {step}")

    def best(self, warn: Callable[[str], None]) -> dict[str, Any]:
        """The content of the checkpoint with the best score that is whole, or of the newest where none is scored.

        Args:
            warn: told of damaged ones.

        Raises:
            CheckpointError: there is none.
        """
        records = self.records(lambda name, why: warn(f"the record {self._store.uri}/{name} is damaged: {why}"))
        scored = sorted((r for r in records if r.score is not None), key=lambda r: (r.score or 0.0, r.step))
        for record in [*scored, *(r for r in reversed(records) if r.score is None)]:
            try:
                return self._read(record)
            except DamagedError as error:
                warn(f"{error}; taking the next best")
        raise CheckpointError(f"{self._store.uri} holds no whole checkpoint; train first, or name another run")

    def content(self, step: int) -> tuple[str, bytes]:
        """File name and bytes of the checkpoint of a step.

        Raises:
            StoreError: there is none.
        """
        name = f"{FOLDER}/step-{step:08d}.pt"
        return name.rpartition("/")[2], bytes(self._store.read(name))

    def _read(self, record: CheckpointRecord) -> dict[str, Any]:
        name = f"{record.name}.pt"
        try:
            content = self._store.read(name)
        except StoreError as error:
            if self._store.size(name) is not None:
                raise
            raise DamagedError(f"checkpoint {self._store.uri}/{name} is missing beside its record") from error
        if len(content) != record.bytes or sha256(content) != record.sha256:
            raise DamagedError(
                f"checkpoint {self._store.uri}/{name} is damaged: {len(content)} bytes of {record.bytes}, "
                "or its SHA-256 differs"
            )
        return load(content, f"{self._store.uri}/{name}")

    def _prune(self) -> None:
        records = self.records()
        kept = {record.step for record in records[-self._keep :]}
        best = _best(records)
        for record in records:
            if record.step not in kept and record != best:
                # The record first: a checkpoint without its record does not count.
                self._store.delete(f"{record.name}.json")
                self._store.delete(f"{record.name}.pt")


def open_checkpoint(where: str, warn: Callable[[str], None] = _LOG.warning) -> dict[str, Any]:
    """The content of the checkpoint at `where`: a run's folder (its best one is taken) or a `.pt` file.

    Args:
        where: path or URI.
        warn: told of damaged checkpoints that are passed over, and of damaged records; the standard error by default.

    Raises:
        CheckpointError: there is none, it is damaged, or it is not one of hemodist's.
    """
    if not where.endswith(".pt"):
        return Checkpoints(Store.open(where), keep=1).best(warn)
    folder, _, name = where.rpartition("/")
    store = Store.open(folder or ".")
    content = store.read(name)
    beside = name.removesuffix(".pt") + ".json"
    if store.size(beside) is not None:
        try:
            record = CheckpointRecord.read(store.read(beside), f"{FOLDER}/{beside}")
        except ValueError as error:
            warn(f"the record {beside} of {where} is damaged: {error}")
        else:
            if sha256(content) != record.sha256:
                raise CheckpointError(f"{where} does not match the SHA-256 in {beside}; take another checkpoint")
    return load(content, where)


def _best(records: list[CheckpointRecord]) -> CheckpointRecord | None:
    scored = [record for record in records if record.score is not None]
    return min(scored, key=lambda record: (record.score or 0.0, record.step)) if scored else None
