"""What a network says of a split, slice by slice."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.metrics.bootstrap import F64, Bool
from hemodist.metrics.probabilities import probabilities


@dataclass(frozen=True)
class Predictions:
    """Outputs for a split, in the order of its rows.

    Attributes:
        rows: int64 [n], rows of the index; without corrupt samples that were masked out.
        logits: float32 [n, 6].
        blood: float64 [n], share of pixels as bright as blood (`scoring.run_network.BLOOD_HU`), for the baseline that
            needs no network; NaN where no window of the data set resolves that range.
        kinds: int8 [6], how many kinds (positive, negative) of each label the network's training knew. With 2 it has
            learned the label. With 1 it has learned a constant, with 0 its output is arbitrary.
        folds: int64 [n], the fold whose network answered, where each fold's slices were scored by a network of its own;
            None where all were scored alike.
    """

    rows: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    blood: npt.NDArray[np.float64]
    kinds: npt.NDArray[np.int8] = field(default_factory=lambda: np.full(len(LABELS), 2, np.int8))
    folds: npt.NDArray[np.int64] | None = None

    @property
    def learned(self) -> Bool:
        """The labels that the network has learned, bool [6]."""
        learned: Bool = self.kinds == 2
        return learned

    def probability(self) -> F64:
        """Float64 [n, 6], NaN for labels that the network has not learned."""
        return probabilities(self.logits, self.learned)

    def scored(self, probability: F64 | None = None) -> F64:
        """As `probability`, float64 [n, 6], but NaN only where the training knew nothing of the label.

        The loss counts a label of one kind, so a score of the same slices does.

        Args:
            probability: what to score in place of `probability`.
        """
        answered = self.probability() if probability is None else probability
        return np.where(self.kinds == 1, probabilities(self.logits), answered)

    def to_parquet(self, dataset: DataSet, probability: npt.NDArray[np.float64]) -> bytes:
        """A row a sample: key, group, patient and study (pseudonyms), labels, probabilities and `blood`.

        Labels are `label_any` and so on, probabilities `any` and so on, null for a label that was not learned. `fold`,
        where folds were scored by networks of their own.
        """
        taken = dataset.index.take(pa.array(self.rows))
        columns: dict[str, Any] = {name: taken.column(name) for name in ("key", "group", "patient", "study")}
        columns |= {f"label_{label}": taken.column(label) for label in LABELS}
        columns |= {label: pa.array(probability[:, i], from_pandas=True) for i, label in enumerate(LABELS)}
        if self.folds is not None:
            columns["fold"] = self.folds
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns | {"blood": self.blood}), buffer)
        return buffer.getvalue()
