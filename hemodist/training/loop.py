"""The training loop, from top to bottom. Runs on one rank or many, under Ray Train or under pytest without Ray."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from hemodist.config.run import Run, check_shares
from hemodist.events import EpochDone, Note, Saved, Started, StepDone, Tell
from hemodist.loading.dali_pipeline import Batch
from hemodist.loading.sample_reader import Reader
from hemodist.loading.shard_cache import ShardCache
from hemodist.loading.training_loader import TrainingLoader
from hemodist.metrics.predictions import Predictions
from hemodist.plan.prepare import prepare
from hemodist.reports.contents import Description
from hemodist.reports.run_log import RunLog
from hemodist.scoring.write_results import TEST_PREDICTIONS, Results, probability_of, write_results
from hemodist.storage.store import Store, join
from hemodist.training.divergence import Divergence
from hemodist.training.early_stopping import should_stop
from hemodist.training.epoch_sums import EpochSums
from hemodist.training.late_steps import BEHIND, LateStep, LateSteps
from hemodist.training.learner import Learner, Update, seeded_network
from hemodist.training.leave_poll import LeavePoll
from hemodist.training.masked_samples import MaskedSamples
from hemodist.training.optimizer import rates_at
from hemodist.training.profile import Profile, named
from hemodist.training.report_notes import report_notes
from hemodist.training.run_checkpoints import RunCheckpoints
from hemodist.training.run_state import RunState
from hemodist.training.sample_ledger import SampleLedger
from hemodist.training.throughput import Throughput
from hemodist.training.validation import Validation
from hemodist.world import LeavingError, World


def train(run: Run, world: World, tell: Tell) -> Results:
    """Train, validate after each epoch, save, score, report; go on where an earlier attempt stopped.

    Args:
        run: the configuration; `prepare` must accept it.
        world: the ranks.
        tell: told what happens; the launcher listens to rank 0 only.

    Raises:
        UserError: something that the user can mend; the text says what.
        LeavingError: a node is about to be taken away; the last step is saved, and another call goes on after it.
    """
    training = Training(run, world, tell)
    try:
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
    """A run on one rank. It is whole once it is built: no attribute appears later.

    Attributes:
        run: the configuration.
        world: the ranks.
        prepared: data set, split and plan.
        total: optimizer updates of the whole run.
        step: optimizer updates made.
        history: a row an epoch.
        learner: network, optimizer and moving average.
        epoch: the sums of the current epoch.
        divergence: the steps without an update.
        checkpoints: the run's.
        validation: runs the network over the other splits.
        reader: gives the encoded images of training.
        run_log: the run's log at W&B; None on other ranks than rank 0.
    """

    def __init__(self, run: Run, world: World, tell: Tell, at_most: int | None = None) -> None:
        """Go on from the newest whole checkpoint, or begin; all ranks build theirs together.

        Args:
            run: the configuration; `prepare` must accept it.
            world: the ranks.
            tell: told what happens.
            at_most: steps after which the caller will stop, where that is before the run's end.

        Raises:
            UserError: the run cannot start or cannot go on; the text says why.
        """
        self.run, self.world, self._tell = run, world, tell
        self.prepared = prepare(run)
        check_shares(run.batch, world.size)
        self.total = min(self.prepared.total_steps, at_most or self.prepared.total_steps)
        self._store = Store.open(join(run.output, run.name))
        cache = ShardCache(self.prepared.dataset, run.data.cache, limit=run.data.cache_bytes)
        self.reader = Reader(self.prepared.dataset, cache, run.data.on_corrupt)
        self._masked = MaskedSamples(run, world, self.reader)
        network = seeded_network(run, world)
        self.checkpoints = RunCheckpoints(run, self.prepared, world, self._store)
        saved = self.checkpoints.newest(self._note)
        state = RunState.read(saved["state"], self.prepared.plan) if saved else RunState.at_start(run, self.prepared)
        self.step, self.history = state.step, state.history
        if saved:
            self._note(f"going on at step {self.step} of {self.total}")
        self.learner = Learner(network, run, world, saved, self.prepared.known_share)
        self.divergence = Divergence(run, self.prepared, world, state)
        self.validation = Validation(run, self.prepared, world, self.reader, tell)
        self._validated: Predictions | None = None  # of the last epoch that ended since the start
        self.run_log = RunLog(run, self.prepared, self._store, state.logged, self._note) if world.is_rank_0 else None
        self._leave_poll = LeavePoll(world, self.step)
        self._ledger = SampleLedger.of(run, self.prepared, world, self._store, self.step)
        self._tell(Started(step=self.step, total=self.total, workers=world.size))
        self.epoch = EpochSums(world, state)
        self._throughput = Throughput(run, world, self.step)
        self._late = LateSteps(self._throughput)
        self._profile = Profile(run.tracking.profile, world, self._store, self._note)

    def batches(self) -> Iterator[Batch]:
        """The rank's shares of the remaining global batches, augmented and mixed; counts the time spent waiting."""
        if self.stopped():
            return
        run, world = self.run, self.world
        loader = TrainingLoader(
            self.prepared, run, self.reader, rank=world.rank, world=world.size, start=self.step, device=world.device
        )
        batches = iter(loader)
        while True:
            with self._throughput.waiting("data"), named("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def update(self, batch: Batch, lr: float | None = None) -> Update:
        """One optimizer step on the mean gradient over the global batch; looks at the one made two steps before.

        Args:
            batch: this rank's share.
            lr: instead of the schedule's.

        Raises:
            DivergedError: the gradient was not finite for too many steps in a row, up to two steps before.
        """
        rates = rates_at(batch.number, self.total, self.run.optim)
        rates = rates if lr is None else replace(rates, lr=lr)
        with self._throughput.computing():
            update = self.learner.step(batch, rates)
            self.epoch.add(update.sums, update.skipped)
        self.step = batch.number + 1
        if self._ledger is not None:
            self._ledger.add(batch.rows)
        logged = self.step % self.run.tracking.log_every == 0 or self.step == self.total
        self._late.add(batch.number, batch.rows, rates.lr, update, self._sums(update) if logged else update.sums[:0])
        self.catch_up(behind=BEHIND)
        self._profile.step_made()
        return update

    def catch_up(self, behind: int = 0) -> None:
        """Look at the steps that nobody has, but the last `behind`; all ranks together. May raise DivergedError."""
        while (late := self._late.next(behind=behind)) is not None:
            self.divergence.count(late.number, late.rows, self.learner.network, self._note, skipped=late.skipped)
            if late.sums:
                self._log(late)

    def epoch_ended(self) -> int | None:
        """The number of the epoch that the last step completed (from 0), or None."""
        epoch = self.step * self.run.batch.global_batch_size // len(self.prepared.plan.rows) - 1
        return epoch if epoch >= 0 and self.prepared.plan.steps(epoch + 1) == self.step else None

    def save_is_due(self) -> bool:
        """True where a checkpoint within the epoch is wanted now; the same on every rank."""
        return self.checkpoints.is_due(self.step)

    def stopped(self) -> bool:
        """True where early stopping ends the run before its last epoch; after a restart too."""
        return should_stop(self.history, self.run.stop)

    def must_leave(self, epoch: int | None) -> bool:
        """Whether the ranks must save and leave; asked every few seconds, and after each epoch's validation.

        Args:
            epoch: that has just ended, or None.
        """
        return self._leave_poll.must_leave(self.step, at_once=epoch is not None)

    def validate(self, epoch: int) -> None:
        """Score the validation split and add the epoch's row to the history: the average's scores and the raw ones.

        Args:
            epoch: that has just ended, from 0.
        """
        self.catch_up()
        seconds_training = self.epoch.seconds()
        self._validated, scores = self.validation.of_learner(self.learner, self.step)
        images = (self.step - self.prepared.plan.steps(epoch)) * self.run.batch.global_batch_size
        row = {
            "epoch": epoch + 1,
            "step": self.step,
            "train_loss": self.epoch.mean_loss(),
            "valid_loss": scores["weighted_log_loss"],
            **scores,
            "lr": self.learner.lr,
            "seconds": self.epoch.seconds(),
            "images_per_s": images / seconds_training,
        }
        row = self.world.broadcast(row)  # rank 0's, so that all ranks stop and choose alike
        self.history.append(row)
        self.epoch.clear()
        self._throughput.restart(self.step)
        if self.run_log is not None:
            self.run_log.log_epoch(self.step, row, self._validated)
        self._tell(EpochDone(row))
        if self.stopped():
            config = self.run.stop
            self._note(f"{config.patience} epochs without a better {config.score}; stopping after epoch {epoch + 1}")

    def save(self) -> None:
        """Write a checkpoint of this step, beside the training that follows; all ranks call it together."""
        self.catch_up()  # what is saved depends on no step that nobody has looked at
        epoch_loss, epoch_weight = self.epoch.totals()
        write_ledger = self._ledger.commit() if self._ledger is not None else lambda: None
        self.checkpoints.count_anew()
        if self.run_log is None:  # rank 0 has one, and writes
            return
        state = replace(
            RunState.at_start(self.run, self.prepared),
            step=self.step,
            history=self.history,
            epoch_loss=epoch_loss,
            epoch_weight=epoch_weight,
            epoch_seconds=self.epoch.seconds(),
            nonfinite=self.divergence.nonfinite,
            skipped=self.divergence.skipped,
            logged=self.run_log.state(),
        )
        self.checkpoints.write(self.learner, state, write_ledger, lambda: self._tell(Saved(state.step)))

    def finish(self) -> Results:
        """Score the best checkpoint, write scores, predictions and report, close the tracker."""
        self._profile.end()
        self.checkpoints.wait()
        network, predictions = self.learner.validated, self._validated
        best = self.checkpoints.best_step()
        if predictions is None or best != self.step:
            chosen = self.checkpoints.best(self._note)
            best = chosen["state"]["step"]
            network.load_state_dict(chosen["scored"])
            predictions = self.validation.predict(network, self.step)
        # Shown to nobody before systems are compared: what is not chosen on them alone tells how good a system is.
        rows = self.prepared.split.test
        test = self.validation.predict(network, self.step, rows) if len(rows) else None
        self.reader.cache.close()
        if self.run_log is None:
            return Results.elsewhere(self._store.uri)
        self.world.check_still_owner()
        if test is not None:
            self._store.write(TEST_PREDICTIONS, test.to_parquet(self.prepared.dataset, probability_of(test)))
        facts = self.prepared.facts(self.run) | {"corrupt training samples masked out": len(self._masked)}
        facts |= {"steps without an update": self.divergence.skipped, "where time went": self._throughput.in_words()}
        notes = report_notes(self.history, best, self.step, self.total, stopped=self.stopped())
        scored = {"checkpoint": self._store.uri, "step": best, "part": "valid"}
        description = Description(self.run.name, self.history, self.run.to_dict(), facts, notes, scored)
        prevalence = self.prepared.train_prevalence
        results = write_results(self._store, self.prepared.dataset, predictions, description, prevalence)
        self.run_log.finish(results.summary(), predictions, lambda: self.checkpoints.content(best))
        return results

    def _sums(self, update: Update) -> torch.Tensor:
        """Over all ranks, which call it together, what the log of the last step shows; float32 [4] on the device."""
        # Rank 0's clock, and how many samples were masked out, travel with the loss: filled in, as a copy would wait.
        here = (self.checkpoints.time_is_up(), self._masked.found_here())
        return self.world.sum(torch.cat([update.sums, *(update.sums.new_full((1,), float(x)) for x in here)]))

    def _log(self, late: LateStep) -> None:
        """Show the figures of a step; all ranks come here together."""
        figures = self._throughput.read(self.step)
        loss_sum, weight, clocks, masked = late.sums
        self.checkpoints.agree(clocks > 0)
        loss = loss_sum / weight if weight else float("nan")
        self._masked.gather(int(masked), self._note)
        corrupt, step = len(self._masked), late.number + 1
        if self.run_log is not None:
            row = {"loss": loss, "lr": late.lr, "gradient_norm": late.gradient_norm, "corrupt_samples": corrupt}
            self.run_log.log(step, row | figures | {"skipped_steps": self.divergence.skipped})
        self._tell(StepDone(step=step, total=self.total, loss=loss, corrupt_samples=corrupt, **figures))

    def _note(self, text: str) -> None:
        self._tell(Note(text))
