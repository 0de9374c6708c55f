"""From predictions to what a person reads: scores, predictions.parquet, metrics.json and the report."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.index import labels_of
from hemodist.metrics import scores as metrics
from hemodist.metrics.pooling import PooledScores, pooled_scores
from hemodist.metrics.predictions import Predictions
from hemodist.metrics.scores import Scores
from hemodist.reports import page as report
from hemodist.reports.contents import NO_EXTRAS, Extras
from hemodist.storage.store import Store

REPORT = "report.html"
METRICS = "metrics.json"
PREDICTIONS = "predictions.parquet"
TEST_PREDICTIONS = "test_predictions.parquet"
THRESHOLD = "brain-window threshold"
BOOTSTRAP = 500
"""Replicates of every interval that is written down."""
LEVELS = ("study", "patient")
PLURAL = {"study": "studies", "patient": "patients"}


@dataclass(frozen=True)
class Results:
    """What was found.

    Attributes:
        scores: of the network, with intervals and trivial baselines; None on other ranks than rank 0.
        threshold_auc: AUC of `any` by the share of pixels in the range of blood; NaN where it cannot be measured.
        report: where the report is.
        extras: pooled scores, pictures and the pointing game.
    """

    scores: Scores | None
    threshold_auc: float
    report: str
    extras: Extras = NO_EXTRAS

    @classmethod
    def elsewhere(cls, uri: str) -> Results:
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


def write_results(
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
    scored: Mapping[str, Any],
    extras: Extras = NO_EXTRAS,
    repair_any: bool = False,
) -> Results:
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
        scored: checkpoint, step, part of the split, and whatever else tells these scores from others.
        extras: pictures and the pointing game; what is pooled is added here.
        repair_any: P(any) is raised to the largest P of a subtype first.

    Raises:
        StoreError: something cannot be written.
    """
    labels = labels_of(dataset.index)[predictions.rows]
    groups = dataset.column("group")[predictions.rows]
    probability = probability_of(predictions, repair_any)
    scores = metrics.score(probability, labels, groups, train_prevalence=train_prevalence, bootstrap=BOOTSTRAP)
    threshold = float("nan")
    if np.isfinite(predictions.blood).all():
        threshold = metrics.threshold_baseline(predictions.blood, labels, groups, bootstrap=0).value
    windows = [f"{w['name']} {w['center']:g}/{w['width']:g}" for w in dataset.manifest.config["windows"]]
    extras = replace(extras, pooled=pool(dataset, predictions.rows, probability), windows=windows)
    held = {level: held_by_units(dataset, predictions.rows, level) for level in LEVELS} if extras.pooled else {}
    conclusion = Results(scores, threshold, f"{store.uri}/{REPORT}", extras)
    store.write(PREDICTIONS, predictions.to_parquet(dataset, probability))
    content = scores.to_json() | {
        "threshold_auc_any": threshold if np.isfinite(threshold) else None,
        "pooled": [metrics.plain_json(asdict(one)) for one in extras.pooled],
        "slices_held_by_units": held,
        "pointing": metrics.plain_json(asdict(extras.pointing)) if extras.pointing else None,
        "operating_points": [metrics.plain_json(asdict(one)) for one in report.operating_points(probability, labels)],
        "scored": dict(scored)
        | {"dataset": dataset.store.uri, "dataset_digest": dataset.manifest.digest, "repaired_any": repair_any},
    }
    store.write(METRICS, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    synthetic = bool(dataset.manifest.config.get("synthetic"))
    with tempfile.TemporaryDirectory() as folder:
        page = report.write_report(
            Path(folder) / REPORT,
            title=title,
            history=history,
            scores=scores,
            probabilities=probability,
            labels=labels,
            groups=groups,
            config=config,
            dataset=dict(facts) | data_facts(dataset),
            notes=[*notes, *_incomplete(len(predictions.rows), held, dataset)],
            extra_baselines=conclusion.extra_baselines(),
            extras=extras,
            synthetic=synthetic,
        )
        store.write(REPORT, page.read_bytes())
    return conclusion


def probability_of(predictions: Predictions, repair_any: bool = False) -> npt.NDArray[np.float64]:
    """Probabilities, float64 [n, 6], with P(any) repaired where that is asked for."""
    probability = metrics.probabilities(predictions.logits)
    return metrics.repair_any(probability) if repair_any else probability


def pool(
    dataset: DataSet, rows: npt.NDArray[np.int64], probability: npt.NDArray[np.float64]
) -> tuple[PooledScores, ...]:
    """Scores of the studies and of the patients of these rows; a slice without a name counts to its group."""
    labels, groups = labels_of(dataset.index)[rows], dataset.column("group")[rows]
    found: list[PooledScores] = []
    for level in LEVELS:
        units = _units(dataset, level)[rows]
        found += pooled_scores(level, units, probability, labels, groups, bootstrap=BOOTSTRAP)
    return tuple(found)


def held_by_units(dataset: DataSet, rows: npt.NDArray[np.int64], level: str) -> int:
    """How many slices the data set holds of the units that these rows belong to, second copies not counted."""
    units = _units(dataset, level)
    held: npt.NDArray[np.bool_] = np.isin(units, units[rows]) & ~dataset.column("duplicate")
    return int(held.sum())


def _units(dataset: DataSet, level: str) -> npt.NDArray[np.int64]:
    """A number for the study or the patient of each sample; a slice without a name counts to its group."""
    names = dataset.index.column(level).combine_chunks().dictionary_encode()
    named = names.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.where(named >= 0, named, len(names.dictionary) + dataset.column("group").astype(np.int64))


def _incomplete(scored: int, held: Mapping[str, int], dataset: DataSet) -> list[str]:
    """Why the scores of studies and patients are not those of whole ones; nothing where they are."""
    parts = [f"{scored:,} of the {n:,} slices of these {PLURAL[level]}" for level, n in held.items() if n > scored]
    reasons = [f"only {' and '.join(parts)} were scored"] if parts else []
    if held and dataset.manifest.config.get("selection", "all") != "all":
        reasons.append(f"the data set itself is a selection ({dataset.manifest.config['selection']}) of the slices")
    if not reasons:
        return []
    return [f"Scores by study and patient are not of whole ones: {'; '.join(reasons)}. Blood may lie on another slice."]


def data_facts(dataset: DataSet) -> dict[str, Any]:
    """Counts, labels and rejections of the whole data set, for the report."""
    manifest = dataset.manifest
    facts: dict[str, Any] = {
        "source files": manifest.source_files,
        "samples of the data set": manifest.samples,
        "second copies, never used": manifest.duplicates,
        "rejected files": sum(manifest.rejected.values()),
        "labels of the data set": manifest.label_counts,
    }
    if manifest.rejected:
        facts["rejected files by reason"] = {reason: {"files": n} for reason, n in sorted(manifest.rejected.items())}
    return facts
