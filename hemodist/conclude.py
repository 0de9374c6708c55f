"""From predictions to what a person reads: scores, predictions.parquet, metrics.json and the report."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hemodist import metrics, report
from hemodist.evaluation import Predictions
from hemodist.manifest import DataSet, labels_of
from hemodist.metrics import Scores
from hemodist.store import Store

REPORT = "report.html"
METRICS = "metrics.json"
PREDICTIONS = "predictions.parquet"
THRESHOLD = "brain-window threshold"


@dataclass(frozen=True)
class Conclusion:
    """What was found.

    Attributes:
        scores: of the network, with intervals and trivial baselines; None on other ranks than the chief.
        threshold_auc: AUC of `any` by the share of pixels in the range of blood; NaN where it cannot be measured.
        report: where the report is.
    """

    scores: Scores | None
    threshold_auc: float
    report: str

    @classmethod
    def elsewhere(cls, uri: str) -> Conclusion:
        """What the ranks return that did not write the report themselves."""
        return cls(None, float("nan"), f"{uri}/{REPORT}")

    def extra_baselines(self) -> dict[str, float]:
        """The threshold's AUC by the name that tables and reports show; empty where it cannot be measured."""
        return {} if np.isnan(self.threshold_auc) else {THRESHOLD: self.threshold_auc}

    def summary(self) -> dict[str, float]:
        """The main scores by name."""
        if self.scores is None:
            return {}
        return {
            "weighted_log_loss": self.scores.weighted_log_loss.value,
            "auc_any": self.scores.auc_any.value,
            "accuracy_multi": self.scores.accuracy_multi.value,
            "constant_prevalence": self.scores.baselines.constant_prevalence,
            "threshold_auc_any": self.threshold_auc,
        }


def score(
    dataset: DataSet,
    predictions: Predictions,
    train_prevalence: npt.NDArray[np.float64],
    *,
    bootstrap: int,
) -> Scores:
    """Scores of predictions against the data set's labels."""
    return metrics.score(
        metrics.probabilities(predictions.logits),
        dataset.labels()[predictions.rows],
        dataset.column("group")[predictions.rows],
        train_prevalence=train_prevalence,
        bootstrap=bootstrap,
    )


def conclude(
    store: Store,
    dataset: DataSet,
    predictions: Predictions,
    *,
    title: str,
    history: Sequence[Mapping[str, Any]],
    train_prevalence: npt.NDArray[np.float64],
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    notes: Sequence[str],
) -> Conclusion:
    """Score the predictions and write what is to be kept.

    Args:
        store: the folder to write to.
        dataset: the data set.
        predictions: over the split that is scored.
        title: of the report.
        history: a row an epoch.
        train_prevalence: float64 [6], for the constant baseline.
        config: the resolved configuration.
        facts: of data set and split.
        notes: sentences for the report.

    Raises:
        StoreError: something cannot be written.
    """
    labels = labels_of(dataset.index)[predictions.rows]
    groups = dataset.column("group")[predictions.rows]
    probability = metrics.probabilities(predictions.logits)
    scores = score(dataset, predictions, train_prevalence, bootstrap=500)
    threshold = float("nan")
    if np.isfinite(predictions.blood).all():
        threshold = metrics.threshold_baseline(predictions.blood, labels, groups, bootstrap=0).value
    conclusion = Conclusion(scores, threshold, f"{store.uri}/{REPORT}")
    store.write(PREDICTIONS, predictions.to_parquet(dataset, probability))
    content = scores.to_json() | {"threshold_auc_any": threshold if np.isfinite(threshold) else None}
    store.write(METRICS, (json.dumps(content, indent=2) + "\n").encode())
    synthetic = bool(dataset.manifest.config.get("synthetic"))
    with tempfile.TemporaryDirectory() as folder:
        page = report.write_report(
            Path(folder) / REPORT,
            title=title,
            history=history,
            scores=scores,
            probabilities=probability,
            labels=labels,
            config=config,
            dataset=facts,
            notes=notes,
            extra_baselines=conclusion.extra_baselines(),
            synthetic=synthetic,
        )
        store.write(REPORT, page.read_bytes())
    return conclusion
