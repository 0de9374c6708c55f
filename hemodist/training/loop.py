"""The training loop, from top to bottom. Runs on one rank or many, under Ray Train or under pytest without Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from hemodist.config.run import Run, check_shares
from hemodist.dataset.labels import LABELS
from hemodist.errors import ConfigError, UserError
from hemodist.loading.dali_pipeline import Batch
from hemodist.loading.sample_reader import Reader
from hemodist.loading.shard_cache import ShardCache
from hemodist.loading.training_loader import TrainingLoader
from hemodist.metrics.plain_json import plain_json
from hemodist.metrics.predictions import Predictions
from hemodist.models.checkpoints import Checkpoints
from hemodist.models.network import build_network, has_dropout, load_pretrained, make_deterministic
from hemodist.plan.philox import Purpose, words
from hemodist.plan.prepare import Prepared, check_resume, prepare
from hemodist.plan.split import Rows
from hemodist.reports.contents import Description
from hemodist.reports.run_log import RunLog
from hemodist.scoring.run_network import run_over_split
from hemodist.scoring.write_results import TEST_PREDICTIONS, Results, probability_of, score_predictions, write_results
from hemodist.storage.store import Store, join
from hemodist.training import optimizer
from hemodist.training.early_stopping import badness, should_stop
from hemodist.training.ema import EMA
from hemodist.training.gradient import backward, clip, distributed
from hemodist.training.sample_ledger import Ledger
from hemodist.training.throughput import Throughput
from hemodist.world import LeavingError, Lookout, Tell, World

HISTORY = "history.json"


class DivergedError(UserError):
    """The gradient was not finite for too many steps in a row."""


def train(run: Run, world: World, tell: Tell) -> Results:
    """Train, validate after each epoch, save, score, report; go on where an earlier attempt stopped.

    Args:
        run: the configuration; `prepare` must accept it.
        world: the ranks.
        tell: told what happens, see `Tell`; the launcher listens to rank 0 only.

    Raises:
        UserError: something that the user can mend; the text says what.
        LeavingError: a node is about to be taken away; the last step is saved, and another call goes on after it.
    """
    training = Training(run, world, tell)
    try:
        training.resume()
        for batch in training.batches():
            training.update(batch)
            epoch = training.epoch_ended()
            if epoch is not None:
                training.validate(epoch)
            leaving = training.must_leave(epoch)
            if epoch is not None or leaving or training.save_is_due():
                training.save()
            if leaving:
                raise LeavingError(training.step)
            if training.stopped():
                break
        return training.finish()
    finally:
        training.checkpoints.wait()


class Training:
    """The state of a run on one rank.

    Attributes:
        step: optimizer updates made.
        history: a row an epoch.
    """

    def __init__(self, run: Run, world: World, tell: Tell) -> None:
        """Build network and optimizer; nothing is read but the index."""
        self.run, self.world = run, world
        self.tell = tell
        self.prepared: Prepared = prepare(run)
        check_shares(run.batch, world.size)
        self.total = self.prepared.total_steps
        self.store = Store.open(join(run.output, run.name))
        self.checkpoints = Checkpoints(self.store, run.checkpoint.keep)
        torch.manual_seed(run.seed)
        torch.use_deterministic_algorithms(run.scaling.deterministic)

        network = build_network(replace(run.model, weights="none")).to(world.device)
        if run.scaling.deterministic and world.device.type == "cuda":
            make_deterministic(network)
        if run.model.sync_batch_norm and world.size > 1:
            if world.device.type == "cpu":
                raise ConfigError("model.sync_batch_norm works on GPUs only; leave it out on CPUs, or use one worker")
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.network = network
        self._average_from_here()
        self.optimizer = optimizer.build(network, run.optim)
        self.draws = has_dropout(network)

        self.step, self.history = 0, list[dict[str, Any]]()
        self.predictions: Predictions | None = None
        self.nonfinite, self.skipped = 0, 0
        # Summed over this rank's samples of the epoch; on the device, so that no step waits for it.
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=world.device)
        self.epoch_weight = torch.zeros((), dtype=torch.float64, device=world.device)  # samples in that sum
        self.epoch_seconds, self.epoch_clock = 0.0, time.monotonic()
        self.throughput = Throughput(run, world)
        self.saved_at, self.clock_says_save = time.monotonic(), False
        self.cache = ShardCache(self.prepared.dataset, run.data.cache, limit=run.data.cache_bytes)
        self.reader = Reader(self.prepared.dataset, self.cache, run.data.on_corrupt)
        self.corrupt: set[int] = set()

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, or begin with the pretrained weights; then wrap the network."""
        rows: list[dict[str, Any]] = []
        world = self.world
        # Rank 0 chooses, so that all ranks agree; the others read the same one.
        newest = self.checkpoints.newest(self._note) if world.is_rank_0 else None
        step = world.broadcast(newest["state"]["step"] if newest else None)
        if world.is_rank_0:
            world.check_still_owner()
            self.checkpoints.delete_leftovers(step)
        if step is not None:
            saved = newest or self.checkpoints.at(step)
            check_resume(saved, self.prepared, self.run, self.store.uri)
            self.network.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if self.ema is not None:
                self.ema.load_state_dict(saved["ema"])
            self.step, self.history = step, saved["state"]["history"]
            if world.is_rank_0:  # the sum over all ranks, carried on by one of them
                self.epoch_loss += saved["state"]["epoch_loss"]
                self.epoch_weight += saved["state"].get("epoch_weight", self._images_of_epoch())  # none in 0.1.0
            self.epoch_seconds = saved["state"]["epoch_seconds"]
            self.nonfinite, self.skipped = saved["state"]["nonfinite"], saved["state"]["skipped"]
            rows = saved["state"]["logged"]
            self._note(f"going on at step {self.step} of {self.total}")
        elif world.is_rank_0:
            load_pretrained(self.network, self.run.model)
        module: nn.Module = torch.compile(self.network) if self.run.model.compile else self.network  # type: ignore[assignment]
        self.wrapped = distributed(module, world)  # which gives all ranks rank 0's weights
        if step is None:
            self._average_from_here()
        self.run_log = RunLog(self.run, self.prepared, self.store, rows, self._note) if world.is_rank_0 else None
        self.lookout = Lookout(world, self.step)
        self.ledger: Ledger | None = None
        if self.run.tracking.ledger:
            keys = self.prepared.dataset.index.column("key").to_pylist()
            self.ledger = Ledger(self.store, world, self.step, keys, len(self.prepared.plan.rows))
        self.tell({"kind": "started", "step": self.step, "total": self.total, "workers": world.size})
        self.epoch_clock = time.monotonic()
        self.throughput.restart(self.step)

    def batches(self) -> Iterator[Batch]:
        """The rank's shares of the remaining global batches, augmented and mixed; counts the time spent waiting."""
        if self.stopped():
            return
        world = self.world
        loader = iter(
            TrainingLoader(
                self.prepared,
                self.run,
                self.reader,
                rank=world.rank,
                world=world.size,
                start=self.step,
                device=world.device,
            )
        )
        while True:
            with self.throughput.waiting():
                batch = next(loader, None)
            if batch is None:
                return
            yield batch

    def update(self, batch: Batch, lr: float | None = None) -> torch.Tensor:
        """One optimizer step on the mean gradient over the global batch.

        Args:
            batch: this rank's share.
            lr: instead of the schedule's.

        Returns:
            The sum of the losses of this rank's samples, float32 scalar on its device.
        """
        run = self.run
        if self.draws:  # keyed by seed, step and rank, so that a restart repeats it
            torch.manual_seed(int(words(run.seed, Purpose.NETWORK, batch.number, self.world.rank)[0, 0]))
        lr = optimizer.lr_at(batch.number, self.total, run.optim) if lr is None else lr
        optimizer.set_lr(self.optimizer, lr)
        self.wrapped.train()
        loss_sum = backward(self.wrapped, batch, run, self.world, self.optimizer)
        norm = clip(self.network, run.optim.clip_norm)
        # The gradient is already averaged over the ranks, so they all see the same norm and decide alike.
        if torch.isfinite(norm):
            self.optimizer.step()
            if self.ema is not None:
                self.ema.follow(self.network, self.step)
            self.epoch_loss += loss_sum
            self.epoch_weight += batch.weights.sum()
            self.nonfinite = 0
        else:
            self._skip(batch)
        self.step = batch.number + 1
        if self.ledger is not None:
            self.ledger.note(batch.rows)
        if self.step % run.tracking.log_every == 0 or self.step == self.total:
            self._log(loss_sum, lr, norm)
        return loss_sum

    def epoch_ended(self) -> int | None:
        """The number of the epoch that the last step completed (from 0), or None."""
        epoch = self.step * self.run.batch.global_batch_size // len(self.prepared.plan.rows) - 1
        return epoch if epoch >= 0 and self.prepared.plan.steps(epoch + 1) == self.step else None

    def save_is_due(self) -> bool:
        """True where a checkpoint within the epoch is wanted now; the same on every rank."""
        every = self.run.checkpoint.every_steps
        return self.clock_says_save or (bool(every) and self.step % every == 0)

    def stopped(self) -> bool:
        """True where the run may end before its last epoch; after a restart too."""
        return should_stop(self.history, self.run.stop)

    def must_leave(self, epoch: int | None) -> bool:
        """Whether a node is about to be taken away; asked every few seconds, and after each epoch's validation."""
        return self.lookout.must_leave(self.step, at_once=epoch is not None)

    def validate(self, epoch: int) -> None:
        """Score the validation split and add the epoch's row to the history: the average's scores and the raw ones."""
        seconds_training = self._seconds_of_epoch()
        self.predictions = self._predict(self.scored)
        scores = self._scores(self.predictions)
        raw = self._scores(self._predict(self.network)) if self.ema is not None else {}
        images = (self.step - self.prepared.plan.steps(epoch)) * self.run.batch.global_batch_size
        loss_sum, weight = self.world.sum(torch.stack([self.epoch_loss, self.epoch_weight])).tolist()
        row = {
            "epoch": epoch + 1,
            "step": self.step,
            "train_loss": loss_sum / weight if weight else float("nan"),
            "valid_loss": scores["weighted_log_loss"],
            **scores,
            **{f"raw_{name}": value for name, value in raw.items()},
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": self._seconds_of_epoch(),
            "images_per_s": images / seconds_training,
        }
        row = self.world.broadcast(row)  # rank 0's, so that all ranks stop and choose alike
        self.history.append(row)
        self.epoch_loss.zero_()
        self.epoch_weight.zero_()
        self.epoch_seconds, self.epoch_clock = 0.0, time.monotonic()
        self.throughput.restart(self.step)
        if self.run_log is not None:
            self.run_log.log_epoch(self.step, row, self.predictions)
        self.tell({"kind": "epoch", "row": row})
        if self.stopped():
            config = self.run.stop
            self._note(f"{config.patience} epochs without a better {config.score}; stopping after epoch {epoch + 1}")

    def save(self) -> None:
        """Write a checkpoint of this step, beside the training that follows; the score is that of an epoch's end."""
        row = self.history[-1] if self.history and self.history[-1]["step"] == self.step else None
        epoch_loss, epoch_weight = self.world.sum(torch.stack([self.epoch_loss, self.epoch_weight])).tolist()
        self.world.check_still_owner()
        if self.ledger is not None:
            self.ledger.commit()
        self.saved_at, self.clock_says_save = time.monotonic(), False
        if self.run_log is None:  # rank 0 has one
            return
        state = {
            "dataset": self.prepared.dataset.manifest.digest,
            "split": self.prepared.split.digest,
            "seed": self.run.seed,
            "step": self.step,
            "history": self.history,
            "epoch_loss": epoch_loss,
            "epoch_weight": epoch_weight,
            "epoch_seconds": self._seconds_of_epoch(),
            "nonfinite": self.nonfinite,
            "skipped": self.skipped,
            "logged": self.run_log.state(),
        }
        content = {
            "model": self.network.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scored": self.scored.state_dict(),
            "run": self.run.to_dict(),
            "sharding": self.prepared.dataset.manifest.config,
            "labels": list(LABELS),
            "prevalence": self.prepared.train_prevalence.tolist(),
            "state": state,
        }
        saved = {"kind": "saved", "step": self.step}
        badness_of_step = badness(row, self.run.stop.score) if row else None
        self.checkpoints.save_in_background(content, self.step, badness_of_step, lambda: self.tell(saved))
        self.store.write(HISTORY, (json.dumps([plain_json(row) for row in self.history], indent=2) + "\n").encode())

    def finish(self) -> Results:
        """Score the best checkpoint, write scores, predictions and report, close the tracker."""
        self.checkpoints.wait()
        best = self.world.broadcast(self.checkpoints.best_step() if self.world.is_rank_0 else None)
        if self.predictions is None or best != self.step:
            chosen = self.checkpoints.best(self._note) if self.world.is_rank_0 else None
            best = self.world.broadcast(chosen["state"]["step"] if chosen else None)
            self.scored.load_state_dict((chosen or self.checkpoints.at(best))["scored"])
            self.predictions = self._predict(self.scored)
        # Shown to nobody before systems are compared: what is not chosen on them alone tells how good a system is.
        test = self._predict(self.scored, self.prepared.split.test) if len(self.prepared.split.test) else None
        self.cache.close()
        if self.run_log is None:
            return Results.elsewhere(self.store.uri)
        self.world.check_still_owner()
        if test is not None:
            self.store.write(TEST_PREDICTIONS, test.to_parquet(self.prepared.dataset, probability_of(test)))
        description = Description(
            title=self.run.name,
            history=self.history,
            config=self.run.to_dict(),
            facts=self.prepared.facts(self.run)
            | {"corrupt training samples masked out": len(self.corrupt), "steps without an update": self.skipped},
            notes=self._notes(best),
            scored={"checkpoint": self.store.uri, "step": best, "part": "valid"},
        )
        results = write_results(
            self.store, self.prepared.dataset, self.predictions, description, self.prepared.train_prevalence
        )
        self.run_log.finish(results.summary(), self.predictions, lambda: self.checkpoints.content(best))
        return results

    def _skip(self, batch: Batch) -> None:
        """Count a step whose gradient is not finite. All ranks come here together, and leave by the same way."""
        self.nonfinite, self.skipped = self.nonfinite + 1, self.skipped + 1
        # Rank 0's statistics, which DDP gives to all at the next forward pass.
        if not self.world.broadcast(all(bool(torch.isfinite(buffer).all()) for buffer in self.network.buffers())):
            raise DivergedError(
                f"step {batch.number}: the forward pass has made batch statistics non-finite, which no later step "
                f"mends; lower optim.lr (now {self.run.optim.peak:g}) or set optim.clip_norm, under another name"
            )
        rows = np.concatenate(self.world.gather(batch.rows))
        keys = self.prepared.dataset.index.column("key").take(rows).to_pylist()
        listed = ", ".join(keys[:8]) + (" ..." if len(keys) > 8 else "")
        self._note(f"step {batch.number}: the gradient is not finite, no update was made; samples {listed}")
        if self.nonfinite >= self.run.optim.max_nonfinite:
            raise DivergedError(
                f"the gradient was not finite for {self.nonfinite} steps in a row, up to step {batch.number}; "
                f"lower optim.lr (now {self.run.optim.peak:g}) or set optim.clip_norm; the last samples were {listed}"
            )

    def _log(self, loss_sum: torch.Tensor, lr: float, norm: torch.Tensor) -> None:
        figures = self.throughput.read(self.step)
        minutes = self.run.checkpoint.every_minutes
        due = self.world.is_rank_0 and 0 < minutes <= (time.monotonic() - self.saved_at) / 60
        # Rank 0's clock travels with the loss, so that asking it costs nothing.
        summed = self.world.sum(torch.stack([loss_sum, torch.full_like(loss_sum, float(due))])).tolist()
        mean_loss, self.clock_says_save = summed[0] / self.run.batch.global_batch_size, summed[1] > 0
        row = {"loss": mean_loss, "lr": lr, "gradient_norm": norm.item(), "skipped_steps": self.skipped} | figures
        corrupt = set().union(*self.world.gather(self.reader.corrupt)) if self.run.data.on_corrupt == "mask" else set()
        for new in sorted(corrupt - self.corrupt):
            self._note(f"{self.reader.describe(new)} does not match its checksum and is masked out")
        self.corrupt |= corrupt
        if self.run_log is not None:
            self.run_log.log(self.step, row | {"corrupt_samples": len(self.corrupt)})
        told = {"step": self.step, "total": self.total, "loss": mean_loss, "corrupt_samples": len(self.corrupt)}
        self.tell({"kind": "step"} | told | figures)

    def _predict(self, network: nn.Module, rows: Rows | None = None) -> Predictions:
        """The validation split, or other rows."""
        rows = self.prepared.split.valid if rows is None else rows
        self.reader.close()  # what validation reads may need the room
        predictions = run_over_split(network, self.prepared.dataset, rows, self.run, self.world, self.tell)
        if not np.isfinite(predictions.logits).all():
            raise DivergedError(
                f"the network's outputs at step {self.step} are not finite; lower optim.lr "
                f"(now {self.run.optim.peak:g}) or set optim.clip_norm, and start under another name"
            )
        return predictions

    def _scores(self, predictions: Predictions) -> dict[str, float]:
        scores = score_predictions(self.prepared.dataset, predictions, self.prepared.train_prevalence, bootstrap=0)
        return {
            "accuracy_multi": scores.accuracy_multi.value,
            "weighted_log_loss": scores.weighted_log_loss.value,
            "auc_any": scores.auc_any.value,
        }

    def _average_from_here(self) -> None:
        """Start the moving average, if there is one, from the network as it is; `scored` is what is validated."""
        decay = self.run.model.ema_decay
        self.ema = EMA(self.network, decay) if decay else None
        self.scored: nn.Module = self.ema.module if self.ema is not None else self.network

    def _images_of_epoch(self) -> int:
        """Images of the global batches since the last epoch's end."""
        done = self.step * self.run.batch.global_batch_size // len(self.prepared.plan.rows)
        return (self.step - self.prepared.plan.steps(done)) * self.run.batch.global_batch_size

    def _seconds_of_epoch(self) -> float:
        return self.epoch_seconds + time.monotonic() - self.epoch_clock

    def _notes(self, best: int) -> list[str]:
        """What the report says above the scores."""
        notes = [f"Scored: the checkpoint of step {best}, the best of this run on this very validation split."]
        row = next((row for row in self.history if row["step"] == best), {})
        if self.ema is not None and "raw_auc_any" in row:
            notes.append(
                f"These are the averaged weights: weighted log loss {row['weighted_log_loss']:.4f}, AUC of any "
                f"{row['auc_any']:.4f}. The raw weights of the same step: {row['raw_weighted_log_loss']:.4f}, "
                f"{row['raw_auc_any']:.4f}."
            )
        if self.stopped():
            notes.append(f"Stopped early, at step {self.step} of {self.total}.")
        return notes

    def _note(self, text: str) -> None:
        self.tell({"kind": "note", "text": text})
