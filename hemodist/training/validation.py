"""A run's network over the run's own validation or test split, and the scores that an epoch's row holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from hemodist.config.run import Run
from hemodist.events import Tell
from hemodist.loading.sample_reader import Reader
from hemodist.metrics.predictions import Predictions
from hemodist.plan.prepare import Prepared
from hemodist.plan.split import Rows
from hemodist.scoring.run_network import run_over_split
from hemodist.scoring.write_results import score_predictions
from hemodist.training.divergence import DivergedError
from hemodist.world import World


class Validation:
    """Runs the network over slices that it does not learn from. All ranks call each method together."""

    def __init__(self, run: Run, prepared: Prepared, world: World, reader: Reader, tell: Tell) -> None:
        """Run nothing yet.

        Args:
            run: the configuration.
            prepared: data set and split.
            world: the ranks.
            reader: the training's, which gives way while the network is validated.
            tell: told of the progress.
        """
        self._run, self._prepared, self._world, self._reader, self._tell = run, prepared, world, reader, tell

    def predict(self, network: nn.Module, step: int, rows: Rows | None = None) -> Predictions:
        """What the network says of the validation split, or of other rows; the same on every rank.

        Args:
            network: not wrapped.
            step: optimizer updates made, for the message.
            rows: int64 [n], of the index; None for the validation split.

        Raises:
            DivergedError: an output is not finite.
        """
        rows = self._prepared.split.valid if rows is None else rows
        self._reader.close()  # what validation reads may need the room
        predictions = run_over_split(network, self._prepared.dataset, rows, self._run, self._world, self._tell)
        if not np.isfinite(predictions.logits).all():
            raise DivergedError(
                f"the network's outputs at step {step} are not finite; lower optim.lr "
                f"(now {self._run.optim.peak:g}) or set optim.clip_norm, and start under another name"
            )
        return replace(predictions, kinds=self._prepared.kinds)

    def scores(self, predictions: Predictions) -> dict[str, float]:
        """The main scores by name, without intervals."""
        scores = score_predictions(self._prepared.dataset, predictions, self._prepared.train_prevalence, bootstrap=0)
        return {
            "accuracy_multi": scores.accuracy_multi.value,
            "weighted_log_loss": scores.weighted_log_loss.value,
            "auc_any": scores.auc_any.value,
        }
