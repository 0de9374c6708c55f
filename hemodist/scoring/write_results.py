"""From predictions to what a person reads: scores, predictions.parquet, metrics.json and the report."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.index import labels_of
from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.metrics.plain_json import plain_json
from hemodist.metrics.pooling import PooledScores, pooled_scores
from hemodist.metrics.predictions import Predictions
from hemodist.metrics.probabilities import repair_any, with_prevalence
from hemodist.metrics.ranking import operating_points_of_any
from hemodist.metrics.scores import Scores, score, threshold_auc
from hemodist.reports.contents import NO_HEAT_MAPS, Description, HeatMapResults, ScoredSplit
from hemodist.reports.page import report
from hemodist.reports.verdict import verdict
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


def read_predictions(content: bytes) -> tuple[pa.ChunkedArray, npt.NDArray[np.float64]]:
    """Keys and probabilities of a `predictions.parquet`, strings [n] and float64 [n, 6]; nan where nothing was learned.

    Raises:
        ValueError: it is no such file, or a probability is not in 0 to 1; the text is one line.
    """
    schema = pa.schema([("key", pa.string()), *[(label, pa.float64()) for label in LABELS]])
    try:
        table = pq.read_table(io.BytesIO(content), columns=schema.names).cast(schema)
    except (ValueError, KeyError, OSError, pa.ArrowException) as error:
        raise ValueError(next(iter(str(error).splitlines()), type(error).__name__)) from error
    values = np.stack([table.column(label).to_numpy() for label in LABELS], axis=1)
    if ((values < 0) | (values > 1)).any():
        raise ValueError("it holds probabilities outside 0 to 1")
    return table.column("key"), values


@dataclass(frozen=True)
class Results:
    """The scores of a split, and where the report of them is.

    Attributes:
        scores: of the network, with intervals and trivial baselines; None on other ranks than rank 0.
        threshold_auc: AUC of `any` by the share of pixels in the range of blood; NaN where it cannot be measured.
        report: where the report is.
        pooled: scores of the studies and of the patients.
        heat_maps: pictures of the worst slices, and the pointing game.
        synthetic: the slices are phantoms, or the network was trained on such.
    """

    scores: Scores | None
    threshold_auc: float
    report: str
    pooled: tuple[PooledScores, ...] = ()
    heat_maps: HeatMapResults = NO_HEAT_MAPS
    synthetic: bool = False

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


def score_predictions(
    dataset: DataSet,
    predictions: Predictions,
    train_prevalence: npt.NDArray[np.float64],
    *,
    bootstrap: int,
) -> Scores:
    """Scores of predictions against the data set's labels; nothing is written."""
    return score(
        predictions.scored(),
        dataset.labels()[predictions.rows],
        dataset.resampled_groups(predictions.rows),
        train_prevalence=train_prevalence,
        learned=predictions.learned,
        bootstrap=bootstrap,
    )


def write_results(
    store: Store,
    dataset: DataSet,
    predictions: Predictions,
    description: Description,
    train_prevalence: npt.NDArray[np.float64],
    *,
    heat_maps: HeatMapResults = NO_HEAT_MAPS,
    repaired: bool = False,
    trained_on_phantoms: bool = False,
) -> Results:
    """Score the predictions and write `predictions.parquet`, `metrics.json` and `report.html`.

    Args:
        store: the folder to write to.
        dataset: the data set.
        predictions: over the split that is scored.
        description: what was scored; facts and notes of the data set itself are added here.
        train_prevalence: float64 [6], of the training split, for the constant baseline.
        heat_maps: pictures of the worst slices, and the pointing game.
        repaired: P(any) is raised to the largest P of a subtype first.
        trained_on_phantoms: the network was, whatever it is scored on.

    Raises:
        StoreError: something cannot be written.
    """
    labels = labels_of(dataset.index)[predictions.rows]
    groups = dataset.resampled_groups(predictions.rows)
    answered = probability_of(predictions, repaired)
    scored = predictions.scored(answered)
    scores = score(
        scored, labels, groups, train_prevalence=train_prevalence, learned=predictions.learned, bootstrap=BOOTSTRAP
    )
    threshold = float("nan")
    if np.isfinite(predictions.blood).all():
        threshold = threshold_auc(predictions.blood, labels)
    pooled = pool(dataset, predictions.rows, scored)
    probability = with_prevalence(scored, train_prevalence)
    held = {level: held_by_units(dataset, predictions.rows, level) for level in LEVELS} if pooled else {}
    nameless = dataset.nameless_note(predictions.rows)
    synthetic = trained_on_phantoms or bool(dataset.manifest.config.get("synthetic"))
    results = Results(scores, threshold, f"{store.uri}/{REPORT}", pooled, heat_maps, synthetic)
    store.write(PREDICTIONS, predictions.to_parquet(dataset, answered))
    content = scores.to_json() | {
        "verdict": verdict(scores)[0],
        "synthetic": synthetic,
        "threshold_auc_any": threshold if np.isfinite(threshold) else None,
        "pooled": [plain_json(asdict(one)) for one in pooled],
        "slices_held_by_units": held,
        "nameless_slices": dataset.nameless(predictions.rows),
        "pointing": plain_json(asdict(heat_maps.pointing)) if heat_maps.pointing else None,
        "operating_points": [plain_json(asdict(one)) for one in operating_points_of_any(probability, labels)],
        "scored": dict(description.scored)
        | {"dataset": dataset.store.uri, "dataset_digest": dataset.manifest.digest, "repaired_any": repaired},
    }
    store.write(METRICS, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    description = replace(
        description,
        facts=dict(description.facts) | data_facts(dataset),
        notes=[
            *description.notes,
            *([nameless] if nameless else []),
            *not_learned(predictions.learned),
            *_incomplete(len(predictions.rows), held, dataset),
        ],
    )
    html = report(
        description,
        ScoredSplit(scores, probability, labels, groups, pooled, results.extra_baselines()),
        heat_maps,
        synthetic=synthetic,
    )
    store.write(REPORT, html.encode())
    return results


def probability_of(predictions: Predictions, repaired: bool = False) -> npt.NDArray[np.float64]:
    """Probabilities, float64 [n, 6], NaN where not learned; `repaired`: P(any) is raised to that of its subtypes."""
    probability = predictions.probability()
    return repair_any(probability) if repaired else probability


def pool(
    dataset: DataSet, rows: npt.NDArray[np.int64], probability: npt.NDArray[np.float64]
) -> tuple[PooledScores, ...]:
    """Scores of the studies and of the patients of these rows, where these are known.

    A slice without a name counts to its group. Labels of which the training knew nothing (NaN) are scored as unknown
    ones.
    """
    if not dataset.knows_patients(rows):
        return ()
    labels = np.where(np.isnan(probability), np.int8(UNKNOWN), labels_of(dataset.index)[rows])
    probability, groups = np.nan_to_num(probability), dataset.column("group")[rows]
    found: list[PooledScores] = []
    for level in LEVELS:
        units = _units(dataset, level)[rows]
        found += pooled_scores(level, units, probability, labels, groups, bootstrap=BOOTSTRAP)
    return tuple(found)


def not_learned(learned: npt.NDArray[np.bool_]) -> list[str]:
    """A note on the labels that the network has not learned, bool [6]; none where it has learned all."""
    names = [name for name, known in zip(LABELS, learned, strict=True) if not known]
    if not names:
        return []
    return [
        f"Not learned: {', '.join(names)}. The training split had no known positive and negative of it, so predictions "
        "leave it blank; where the training knew nothing of it and these slices do, a constant is scored."
    ]


def held_by_units(dataset: DataSet, rows: npt.NDArray[np.int64], level: str) -> int:
    """How many slices the data set holds of the units that these rows belong to, duplicates not counted."""
    units = _units(dataset, level)
    held: npt.NDArray[np.bool_] = np.isin(units, units[rows]) & ~dataset.column("duplicate")
    return int(held.sum())


def _units(dataset: DataSet, level: str) -> npt.NDArray[np.int64]:
    """A number for the study or the patient of each sample; a slice without a name counts to its group."""
    names = dataset.index.column(level).combine_chunks().dictionary_encode()
    named = names.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.where(named >= 0, named, len(names.dictionary) + dataset.column("group").astype(np.int64))


def _incomplete(scored: int, held: Mapping[str, int], dataset: DataSet) -> list[str]:
    """A note that says why the scores of studies and patients are not of whole ones; none where they are."""
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
