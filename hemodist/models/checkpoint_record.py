"""The record of a checkpoint: the JSON file beside it, which says what it holds and whether it is whole."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from hemodist.dataset.digest import sha256
from hemodist.dataset.manifest import Count
from hemodist.dataset.typed import typed

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

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    step: Count
    sha256: str
    bytes: Count
    score: float | None
    origin: dict[str, dict[str, Any]] = field(default_factory=dict)

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
        record = typed(cls, values)
        if record.score is not None and not math.isfinite(record.score):
            raise ValueError(f"its score is {record.score}")
        if record.origin and record.origin.keys() != {"run", "state"}:
            raise ValueError("its origin has other parts than run and state")
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
