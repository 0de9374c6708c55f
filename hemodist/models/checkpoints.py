"""The checkpoints of a run: written whole, checked when they are read, and read without executing code.

A checkpoint is two files below the run's folder: `step-00000123.pt` (torch's format) and, written after it, its record
`step-00000123.json`. The record holds size and SHA-256 of the first file, the step, the score, and what tells whether a
run may go on from it. One file without the other is no checkpoint.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from hemodist.dataset.digest import sha256
from hemodist.errors import UserError
from hemodist.storage.store import Store, StoreError

FOLDER = "checkpoints"
"""Below the run's folder."""


class CheckpointError(UserError):
    """There is no checkpoint that can be used."""


class DamagedError(CheckpointError):
    """A checkpoint's file is missing, or not what was written."""


@dataclass(frozen=True)
class CheckpointRecord:
    """The record of a checkpoint: the JSON file beside it.

    Attributes:
        step: optimizer updates made.
        sha256: of the `.pt` file.
        bytes: of the `.pt` file.
        score: on the validation split, less is better; None where not scored.
        origin: the run's configuration and the digests of data set and split, as in the `.pt` file's `run` and `state`,
            so that the large file need not be read to find out whether it is of the same run. Empty in records of
            version 0.1.0.
    """

    step: int
    sha256: str
    bytes: int
    score: float | None
    origin: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the checkpoint below the run, without suffix."""
        return f"{FOLDER}/step-{self.step:08d}"


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

    def records(self) -> list[CheckpointRecord]:
        """The records of all checkpoints, oldest first, without those that are damaged or were just deleted.

        Raises:
            StoreError: the store cannot be read; whether the checkpoints in it are whole is not known then.
        """
        found = []
        for name, _ in self._store.list(FOLDER):
            if name.endswith(".json"):
                try:
                    found.append(CheckpointRecord(**json.loads(self._store.read(name))))
                except (ValueError, TypeError):
                    continue
                except StoreError:
                    if self._store.size(name) is not None:
                        raise
        return sorted(found, key=lambda record: record.step)

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
        self, state: dict[str, Any], step: int, score: float | None, then: Callable[[], object] = lambda: None
    ) -> None:
        """As `save`, but written by a thread; it returns once the tensors are copied to this process's memory.

        It first waits for an earlier checkpoint that is still being written, and raises the error that this one failed
        with. The thread calls `then` once the checkpoint is there.
        """
        self.wait()
        copied = _copied(state, {})
        self._writing = threading.Thread(target=self._save_and_keep_failure, args=(copied, step, score, then))
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

    def _save_and_keep_failure(
        self, state: dict[str, Any], step: int, score: float | None, then: Callable[[], object]
    ) -> None:
        try:
            self._save(state, step, score)
            then()
        except BaseException as failure:  # raised where somebody waits
            self._failure = failure

    def _save(self, state: dict[str, Any], step: int, score: float | None) -> CheckpointRecord:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        origin = {"run": state["run"], "state": {k: state["state"].get(k) for k in ("dataset", "split")}}
        record = CheckpointRecord(step, sha256(content), len(content), score, origin)
        self._store.write(f"{record.name}.pt", content)
        self._store.write(f"{record.name}.json", (json.dumps(asdict(record)) + "\n").encode())
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
        """Delete what an earlier attempt at the run left and this one does not go on from; before its first save.

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
        records = self.records()
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
        return _load(content, f"{self._store.uri}/{name}")

    def _prune(self) -> None:
        records = self.records()
        kept = {record.step for record in records[-self._keep :]}
        best = _best(records)
        for record in records:
            if record.step not in kept and record != best:
                # The record first: a checkpoint without its record does not count.
                self._store.delete(f"{record.name}.json")
                self._store.delete(f"{record.name}.pt")


def open_checkpoint(where: str, warn: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """The content of the checkpoint at `where`: a run's folder (its best one is taken) or a `.pt` file.

    Raises:
        CheckpointError: there is none, it is damaged, or it is not one of hemodist's.
    """
    if not where.endswith(".pt"):
        return Checkpoints(Store.open(where), keep=1).best(warn)
    folder, _, name = where.rpartition("/")
    store = Store.open(folder or ".")
    content = store.read(name)
    beside = name.removesuffix(".pt") + ".json"
    if store.size(beside) is not None and sha256(content).encode() not in store.read(beside):
        raise CheckpointError(f"{where} does not match the SHA-256 in {beside}; take another checkpoint")
    return _load(content, where)


def _best(records: list[CheckpointRecord]) -> CheckpointRecord | None:
    scored = [record for record in records if record.score is not None]
    return min(scored, key=lambda record: (record.score or 0.0, record.step)) if scored else None


def _load(content: bytes, where: str) -> dict[str, Any]:
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{where} cannot be read as a checkpoint: {error}") from error
    if not isinstance(state, dict) or not {"model", "scored", "run", "state"} <= state.keys():
        raise CheckpointError(f"{where} is no checkpoint of hemodist: it lacks model, scored, run or state")
    return state


def _copied(value: Any, known: dict[Any, torch.Tensor]) -> Any:
    """The same with every tensor copied into this process's memory; tensors that share memory share the copy too."""
    if isinstance(value, torch.Tensor):
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        if key not in known or not value.numel():
            known[key] = value.detach().to("cpu", copy=True)
        return known[key]
    if isinstance(value, dict):
        return {name: _copied(item, known) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item, known) for item in value)
    return value
