"""A run's network over the run's own validation or test split, and the scores that an epoch's row holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from hemodist.config.run import Run
from hemodist.events import Tell
from hemodist.loading.sample_reader import Reader
from hemodist.metrics.predictions import Predictions
from hemodist.plan.prepare import Prepared
from hemodist.plan.split import Rows
from hemodist.scoring.run_network import run_each_over_split
from hemodist.scoring.write_results import score_predictions
from hemodist.training.divergence import DivergedError
from hemodist.training.learner import Learner
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

    def of_learner(self, learner: Learner, step: int) -> tuple[Predictions, dict[str, float]]:
        """What the learner's validated network says, and its scores; beside an average, the `raw_` ones too.

        Args:
            learner: what learns.
            step: optimizer updates made, for the message.

        Raises:
            DivergedError: an output is not finite.
        """
        networks = [learner.validated] + [learner.network] * (learner.ema is not None)
        found, *raw = self.predict_each(networks, step)
        scores = self.scores(found)
        return found, scores | {f"raw_{name}": value for part in raw for name, value in self.scores(part).items()}

    def predict(self, network: nn.Module, step: int, rows: Rows | None = None) -> Predictions:
        """As `predict_each`, of one network."""
        return self.predict_each([network], step, rows)[0]

    def predict_each(self, networks: Sequence[nn.Module], step: int, rows: Rows | None = None) -> list[Predictions]:
        """What each network says of the validation split, or of other rows; the same on every rank.

        Args:
            networks: not wrapped; all see each batch, which is read once.
            step: optimizer updates made, for the message.
            rows: int64 [n], of the index; None for the validation split.

        Raises:
            DivergedError: an output is not finite.
        """
        rows = self._prepared.split.valid if rows is None else rows
        with self._reader.closed():  # what validation reads may need the room
            found = run_each_over_split(networks, self._prepared.dataset, rows, self._run, self._world, self._tell)
        if not all(np.isfinite(predictions.logits).all() for predictions in found):
            raise DivergedError(
                f"the network's outputs at step {step} are not finite; lower optim.lr "
                f"(now {self._run.optim.peak:g}) or set optim.clip_norm, and start under another name"
            )
        return [replace(predictions, kinds=self._prepared.kinds) for predictions in found]

    def scores(self, predictions: Predictions) -> dict[str, float]:
        """The main scores by name, without intervals."""
        scores = score_predictions(self._prepared.dataset, predictions, self._prepared.train_prevalence, bootstrap=0)
        return {
            "accuracy_multi": scores.accuracy_multi.value,
            "weighted_log_loss": scores.weighted_log_loss.value,
            "auc_any": scores.auc_any.value,
        }
