"""What a run shows at Weights & Biases: rows of numbers, pictures of slices, curves, and the best checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hemodist.config.run import Run
from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.loading.sample_reader import Reader
from hemodist.loading.shard_cache import ShardCache
from hemodist.metrics import ranking
from hemodist.metrics.predictions import Predictions
from hemodist.plan.prepare import Prepared
from hemodist.reports.shown_slices import Panel, choose
from hemodist.reports.versions import versions
from hemodist.reports.wandb_run import Curve, Tracker
from hemodist.storage.store import Store

_CURVE_POINTS = 500
"""Of one label's curve; a picture has no more pixels for them, and W&B keeps a row for each."""


class RunLog:
    """The tracker of one run, and what it is told."""

    def __init__(
        self,
        run: Run,
        prepared: Prepared,
        store: Store,
        rows: Sequence[Mapping[str, Any]],
        warn: Callable[[str], None],
    ) -> None:
        """Start the tracker, or go on with it.

        Args:
            run: the configuration.
            prepared: what follows from it.
            store: the run's folder.
            rows: what `state` gave when the run was saved; none for a new one.
            warn: told, once, when W&B cannot be used.
        """
        self._run, self._prepared = run, prepared
        shown = choose(prepared.split.valid, prepared.labels, run.tracking.images)
        self._shown: list[int] = shown.tolist()
        self._tracker = Tracker.start(
            run.tracking,
            name=run.name,
            local=store.local() if store.is_local else None,
            where=f"{store.uri} {prepared.dataset.manifest.digest}",
            facts=run.to_dict() | {"facts": prepared.facts(run), "versions": versions()},
            warn=warn,
            rows=rows,
            panel=self._panel if self._shown else None,
            keep=None if store.is_local else partial(put_offline_log, store),
        )

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log values at an optimizer step."""
        self._tracker.log(step, values)

    def log_epoch(self, step: int, row: Mapping[str, Any], predictions: Predictions) -> None:
        """Log an epoch's row of the history, and what the network now says of the slices that are shown."""
        values: dict[str, Any] = {f"epoch/{name}": value for name, value in row.items()}
        row_of = {row: number for number, row in enumerate(predictions.rows.tolist())}
        if self._shown:
            # A corrupt sample that was masked out has no prediction.
            probability = predictions.probability()
            values["panel"] = [
                probability[row_of[row]].tolist() if row in row_of else [math.nan] * 6 for row in self._shown
            ]
        self._tracker.log(step, values)

    def state(self) -> list[dict[str, Any]]:
        """All rows so far, for the checkpoint."""
        return self._tracker.state()

    def picture(self, name: str, image: npt.NDArray[np.uint8]) -> None:
        """Add a picture, uint8 [h, w, 3], to the newest row."""
        self._tracker.picture(name, image)

    def finish(
        self, summary: Mapping[str, Any], predictions: Predictions, best: Callable[[], tuple[str, bytes]]
    ) -> None:
        """Log the scores and each label's curves, upload the best checkpoint if that is wanted, and close.

        Args:
            summary: the main scores by name.
            predictions: that were scored.
            best: file name and content of the best checkpoint; called only where it is wanted.
        """
        artifact = best() if self._run.tracking.artifacts and self._run.tracking.mode != "disabled" else None
        self._tracker.finish(summary, curves(predictions, self._prepared.labels), artifact)

    def close(self, summary: Mapping[str, Any]) -> None:
        """Close with a summary instead of scores."""
        self._tracker.finish(summary)

    def _panel(self) -> Panel:
        dataset = self._prepared.dataset
        # Not the loop's own reader, which works on another thread.
        cache = ShardCache(dataset, self._run.data.cache, limit=self._run.data.cache_bytes)
        try:
            reader = Reader(dataset, cache, self._run.data.on_corrupt)
            keys = dataset.index.column("key").to_pylist()
            return Panel.of(np.array(self._shown), reader.read, keys, self._prepared.labels)
        finally:
            cache.close()


def put_offline_log(store: Store, folder: Path) -> None:
    """Put a whole offline log of W&B with the run's other files, in place of earlier ones of the same run.

    A run whose store is no folder keeps its log on rank 0's node while it trains, which may be lost: the rows are in
    the checkpoints, and the next start writes them into a new log.

    Args:
        store: the run's folder.
        folder: the log, `offline-run-TIME-ID`.
    """
    written = {f"wandb/{folder.name}/{file.relative_to(folder)}": file for file in folder.rglob("*") if file.is_file()}
    for name, file in written.items():
        store.write(name, file.read_bytes())
    # The folder's own name may end in a number, where two logs of a run were begun in one second.
    runs = {file.stem.removeprefix("run-") for file in folder.glob("run-*.wandb")}
    for name, _ in store.list("wandb"):
        if name not in written and any(f"-{run}" in name.split("/")[1] for run in runs):
            store.delete(name)


def curves(predictions: Predictions, labels: npt.NDArray[np.int8]) -> dict[str, dict[str, Curve]]:
    """ROC and precision-recall by label, of those labels that were learned, occur and do not always occur.

    Args:
        predictions: of a split.
        labels: int8 [samples, 6], of the whole data set.
    """
    probability = predictions.probability()
    found: dict[str, dict[str, Curve]] = {"ROC": {}, "precision and recall": {}}
    for i, label in enumerate(LABELS):
        known = labels[predictions.rows, i] != UNKNOWN
        score, positive = probability[known, i], labels[predictions.rows, i][known] == 1
        if predictions.learned[i] and positive.any() and not positive.all():
            precision, recall = ranking.precision_recall_curve(score, positive)
            found["ROC"][label] = ranking.thinned(*ranking.roc_curve(score, positive), _CURVE_POINTS)
            found["precision and recall"][label] = ranking.thinned(recall, precision, _CURVE_POINTS)
    return {name: lines for name, lines in found.items() if lines}
