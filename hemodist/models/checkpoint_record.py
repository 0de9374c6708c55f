"""The record of a checkpoint: the JSON file beside it, which says what it holds and whether it is whole."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hemodist.dataset.digest import sha256

Content = bytes  # the record has a field of that name

FOLDER = "checkpoints"
"""Below the run's folder."""


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

    def to_bytes(self) -> Content:
        """The file."""
        return (json.dumps(asdict(self) | {"record_sha256": self._digest()}) + "\n").encode()

    @classmethod
    def read(cls, content: Content, name: str) -> CheckpointRecord:
        """From the file called `name`.

        Raises:
            ValueError: it is not what was written; the text says why.
        """
        values = json.loads(content)
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        digest = values.pop("record_sha256", None)  # older records have none
        try:
            record = cls(**values)
        except TypeError as error:
            raise ValueError("it has other fields than a record") from error
        whole = isinstance(record.step, int) and isinstance(record.bytes, int) and isinstance(record.sha256, str)
        scored = record.score is None or (isinstance(record.score, int | float) and math.isfinite(record.score))
        origin = record.origin == {} or (
            isinstance(record.origin, dict) and all(isinstance(record.origin.get(k), dict) for k in ("run", "state"))
        )
        if not (whole and scored and origin):
            raise ValueError("a value is of another type")
        if digest not in (None, record._digest()):
            raise ValueError("its SHA-256 differs")
        if name != f"{record.name}.json":
            raise ValueError(f"it is of step {record.step}")
        return record

    @classmethod
    def of(
        cls, state: Mapping[str, Any], content: Content | memoryview, step: int, score: float | None
    ) -> CheckpointRecord:
        """Of a checkpoint's content, as a mapping and as the bytes of its file."""
        origin = {"run": state["run"], "state": {k: state["state"].get(k) for k in ("dataset", "split")}}
        return cls(step, sha256(content), len(content), score, origin)

    def _digest(self) -> str:
        return sha256(json.dumps(asdict(self), sort_keys=True).encode())

    @property
    def name(self) -> str:
        """Name of the checkpoint below the run, without suffix."""
        return f"{FOLDER}/step-{self.step:08d}"
