"""The training loop, from top to bottom. Runs on one rank or many, under Ray Train or under pytest without Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from hemodist import augment, cutmix, loss, model, optim
from hemodist.cache import ShardCache
from hemodist.checkpoint import Checkpoints
from hemodist.conclude import Conclusion, conclude, score
from hemodist.config import Run, check_shares
from hemodist.errors import ConfigError, UserError
from hemodist.evaluation import Predictions, autocast_for, predict
from hemodist.philox import Purpose, words
from hemodist.pipeline import Batch, Loader, Reader, Request
from hemodist.plan import share_bounds
from hemodist.prepare import Prepared, check_resume, prepare
from hemodist.store import Store, join
from hemodist.tracking import Tracker, versions
from hemodist.world import Tell, World

HISTORY = "history.json"


class DivergedError(UserError):
    """The gradient was not finite for too many steps in a row."""


def train(run: Run, world: World, tell: Tell) -> Conclusion:
    """Train, validate after each epoch, save, score, report; go on where an earlier attempt stopped.

    Args:
        run: the configuration; `prepare` must accept it.
        world: the ranks.
        tell: told what happens, see `Tell`; the launcher listens to the chief only.

    Raises:
        UserError: something that the user can mend; the text says what.
    """
    training = Training(run, world, tell)
    training.resume()
    for batch in training.batches():
        training.update(batch)
        epoch = training.epoch_ended()
        if epoch is not None:
            training.validate(epoch)
        if epoch is not None or training.save_is_due():
            training.save()
    return training.conclude()


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

        network = model.build(run.model).to(world.device)
        if run.model.sync_batch_norm and world.size > 1:
            if world.device.type == "cpu":
                raise ConfigError("model.sync_batch_norm works on GPUs only; leave it out on CPUs, or use one worker")
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.network = network
        self.ema = self._averaged() if run.model.ema_decay else None
        self.scored = self.ema.module if self.ema is not None else network
        self.optimizer = optim.build(network, run.optim)
        self.draws = model.has_dropout(network)

        self.step, self.history = 0, list[dict[str, Any]]()
        self.updates = 0
        self.predictions: Predictions | None = None
        self.nonfinite = 0
        # Summed over this rank's samples of the epoch; on the device, so that no step waits for it.
        self.epoch_loss = torch.zeros((), dtype=torch.float64, device=world.device)
        self.epoch_seconds, self.epoch_clock = 0.0, time.monotonic()
        self.log_step, self.log_clock, self.wait_seconds = 0, time.monotonic(), 0.0
        self.cache = ShardCache(self.prepared.dataset, run.data.cache)
        self.reader = Reader(self.prepared.dataset, self.cache, run.data.on_corrupt)
        self.corrupt: set[int] = set()

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one; then wrap the network for its ranks."""
        world = self.world
        # The chief chooses, so that all ranks agree; the others read the same one.
        newest = self.checkpoints.newest(self._note) if world.is_chief else None
        step = world.broadcast(newest["state"]["step"] if newest else None)
        if step is not None:
            saved = newest or self.checkpoints.at(step)
            check_resume(saved, self.prepared, self.run, self.store.uri)
            self.network.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if self.ema is not None:
                self.ema.load_state_dict(saved["ema"])
            self.step, self.history = step, saved["state"]["history"]
            if world.is_chief:  # the sum over all ranks, carried on by one of them
                self.epoch_loss += saved["state"]["epoch_loss"]
            self.epoch_seconds = saved["state"]["epoch_seconds"]
            self._note(f"going on at step {self.step} of {self.total}")
        module: nn.Module = torch.compile(self.network) if self.run.model.compile else self.network  # type: ignore[assignment]
        self.wrapped = _distributed(module, world) if world.size > 1 else module
        self.tracker = self._start_tracker()
        self.epoch_clock = time.monotonic()
        self._restart_log()

    def batches(self) -> Iterator[Batch]:
        """The rank's shares of the remaining global batches, augmented and mixed; counts the time spent waiting."""
        loader = iter(self._loader())
        mix_group = self.run.batch.mix_group
        start, _ = share_bounds(self.run.batch.global_batch_size, mix_group, self.world.rank, self.world.size)
        while True:
            before = time.monotonic()
            batch = next(loader, None)
            self.wait_seconds += time.monotonic() - before
            if batch is None:
                return
            first_group = (batch.number * self.run.batch.global_batch_size + start) // mix_group
            mix = cutmix.draw(
                self.run.mix,
                self.run.seed,
                first_group,
                len(batch.rows) // mix_group,
                mix_group=mix_group,
                size=self.run.model.image_size,
            )
            images, targets, weights = cutmix.apply(batch.images, batch.targets, batch.weights, mix, mix_group)
            yield Batch(images, targets, weights, batch.rows, batch.number)

    def update(self, batch: Batch) -> None:
        """One optimizer step on the mean gradient over the global batch."""
        run = self.run
        if self.draws:  # keyed by seed, step and rank, so that a restart repeats it
            torch.manual_seed(int(words(run.seed, Purpose.NETWORK, batch.number, self.world.rank)[0, 0]))
        lr = optim.lr_at(batch.number, self.total, run.optim)
        optim.set_lr(self.optimizer, lr)
        self.wrapped.train()
        loss_sum = self._backward(batch)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), run.optim.clip_norm or float("inf"))
        # The gradient is already averaged over the ranks, so they all see the same norm and decide alike.
        if torch.isfinite(norm):
            self.optimizer.step()
            if self.ema is not None:
                self.updates = self.step
                self.ema.update_parameters(self.network)
            self.epoch_loss += loss_sum
            self.nonfinite = 0
        else:
            self._skip(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.step = batch.number + 1
        if self.step % run.tracking.log_every == 0 or self.step == self.total:
            self._log(loss_sum, lr, norm)

    def epoch_ended(self) -> int | None:
        """The number of the epoch that the last step completed (from 0), or None."""
        epoch = self.step * self.run.batch.global_batch_size // len(self.prepared.plan.rows) - 1
        return epoch if epoch >= 0 and self.prepared.plan.steps(epoch + 1) == self.step else None

    def save_is_due(self) -> bool:
        """True where a checkpoint within the epoch is wanted now."""
        every = self.run.checkpoint.every_steps
        return bool(every) and self.step % every == 0

    def validate(self, epoch: int) -> None:
        """Score the validation split and add the epoch's row to the history."""
        seconds_training = self._seconds_of_epoch()
        self.predictions = self._predict()
        scores = score(self.prepared.dataset, self.predictions, self.prepared.train_prevalence, bootstrap=0)
        steps = self.step - self.prepared.plan.steps(epoch)
        images = steps * self.run.batch.global_batch_size
        seconds = self._seconds_of_epoch()
        row = {
            "epoch": epoch + 1,
            "step": self.step,
            "train_loss": self.world.sum(self.epoch_loss).item() / images,
            "valid_loss": scores.weighted_log_loss.value,
            "accuracy_multi": scores.accuracy_multi.value,
            "weighted_log_loss": scores.weighted_log_loss.value,
            "auc_any": scores.auc_any.value,
            "lr": optim.lr_at(self.step - 1, self.total, self.run.optim),
            "seconds": seconds,
            "images_per_s": images / seconds_training,
        }
        self.history.append(row)
        self.epoch_loss.zero_()
        self.epoch_seconds, self.epoch_clock = 0.0, time.monotonic()
        self._restart_log()
        self.tracker.log(self.step, {f"epoch/{name}": value for name, value in row.items()})
        self.tell({"kind": "epoch", "row": row})

    def save(self) -> None:
        """Write a checkpoint of this step; the score is that of an epoch's end."""
        scored = self.history[-1] if self.history and self.history[-1]["step"] == self.step else None
        epoch_loss = self.world.sum(self.epoch_loss.clone()).item()
        if not self.world.is_chief:
            return
        state = {
            "dataset": self.prepared.dataset.manifest.digest,
            "split": self.prepared.split.digest,
            "seed": self.run.seed,
            "step": self.step,
            "history": self.history,
            "epoch_loss": epoch_loss,
            "epoch_seconds": self._seconds_of_epoch(),
        }
        content = {
            "model": self.network.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scored": self.scored.state_dict(),
            "run": self.run.to_dict(),
            "sharding": self.prepared.dataset.manifest.config,
            "prevalence": self.prepared.train_prevalence.tolist(),
            "state": state,
        }
        self.checkpoints.save(content, self.step, scored["weighted_log_loss"] if scored else None)
        self.store.write(HISTORY, (json.dumps(self.history, indent=2) + "\n").encode())

    def conclude(self) -> Conclusion:
        """Score the best checkpoint, write scores, predictions and report, close the tracker."""
        chosen = self.checkpoints.best(self._note) if self.world.is_chief else None
        best = self.world.broadcast(chosen["state"]["step"] if chosen else None)
        if self.predictions is None or best != self.step:
            self.scored.load_state_dict((chosen or self.checkpoints.at(best))["scored"])
            self.predictions = self._predict()
        self.cache.close()
        if not self.world.is_chief:
            return Conclusion.elsewhere(self.store.uri)
        conclusion = conclude(
            self.store,
            self.prepared.dataset,
            self.predictions,
            title=self.run.name,
            history=self.history,
            train_prevalence=self.prepared.train_prevalence,
            config=self.run.to_dict(),
            facts=self.prepared.facts(self.run) | {"corrupt training samples masked out": len(self.corrupt)},
            notes=[f"Scored: the checkpoint of step {best}, the best of this run on this very validation split."],
        )
        self.tracker.finish(conclusion.summary())
        return conclusion

    def _loader(self) -> Loader:
        run, world, prepared = self.run, self.world, self.prepared
        epoch = self.step * run.batch.global_batch_size // len(prepared.plan.rows)
        self.cache.prefetch(prepared.plan.shard_order(epoch))

        def request_at(step: int) -> Request:
            share = prepared.plan.at(step, world.rank, world.size)
            drawn = augment.draw(run.augment, run.seed, share.epochs, share.rows)
            affine = augment.in_pixels(drawn.affine, run.model.image_size)
            return Request(share.rows, affine, drawn.brightness, drawn.contrast)

        start, stop = share_bounds(run.batch.global_batch_size, run.batch.mix_group, world.rank, world.size)
        return Loader(
            prepared.dataset,
            self.reader,
            request_at,
            start=self.step,
            stop=self.total,
            max_batch=stop - start,
            image_size=run.model.image_size,
            device=world.device,
            threads=run.data.decode_threads,
            prefetch=run.data.prefetch,
        )

    def _backward(self, batch: Batch) -> torch.Tensor:
        """Gradient of the global mean loss; returns the local sum of losses, float32 scalar."""
        groups = len(batch.rows) // self.run.batch.mix_group
        parts = np.array_split(np.arange(groups), self.run.batch.accumulate)
        loss_sum = torch.zeros((), device=self.world.device)
        # DDP averages over the ranks, so the local sum is scaled by ranks / global batch: exact for uneven shares too.
        scale = self.world.size / self.run.batch.global_batch_size
        for number, part in enumerate(parts):
            chosen = slice(int(part[0]) * self.run.batch.mix_group, (int(part[-1]) + 1) * self.run.batch.mix_group)
            with _no_sync(self.wrapped, last=number == len(parts) - 1):
                with autocast_for(self.run, self.world):
                    logits = self.wrapped(batch.images[chosen])
                losses = loss.per_sample(logits, batch.targets[chosen]) * batch.weights[chosen]
                (losses.sum() * scale).backward()  # type: ignore[no-untyped-call]
            loss_sum += losses.detach().sum()
        return loss_sum

    def _skip(self, batch: Batch) -> None:
        self.nonfinite += 1
        if not all(torch.isfinite(buffer).all() for buffer in self.network.buffers()):
            raise DivergedError(
                f"step {batch.number}: the forward pass has made batch statistics non-finite, which no later step "
                f"mends; lower optim.lr (now {self.run.optim.lr:g}) or set optim.clip_norm, under another name"
            )
        keys = self.prepared.dataset.index.column("key").take(batch.rows).to_pylist()
        listed = ", ".join(keys[:8]) + (" ..." if len(keys) > 8 else "")
        self._note(f"step {batch.number}: the gradient is not finite, no update was made; samples {listed}")
        if self.nonfinite >= self.run.optim.max_nonfinite:
            raise DivergedError(
                f"the gradient was not finite for {self.nonfinite} steps in a row, up to step {batch.number}; "
                f"lower optim.lr (now {self.run.optim.lr:g}) or set optim.clip_norm; the last samples were {listed}"
            )

    def _log(self, loss_sum: torch.Tensor, lr: float, norm: torch.Tensor) -> None:
        steps = self.step - self.log_step
        seconds = max(time.monotonic() - self.log_clock, 1e-9)
        mean_loss = self.world.sum(loss_sum.clone()).item() / self.run.batch.global_batch_size
        rate = steps * self.run.batch.global_batch_size / seconds
        row = {"loss": mean_loss, "lr": lr, "gradient_norm": norm.item(), "images_per_s": rate}
        corrupt = set().union(*self.world.gather(self.reader.corrupt)) if self.run.data.on_corrupt == "mask" else set()
        for new in sorted(corrupt - self.corrupt):
            self._note(f"{self.reader.describe(new)} does not match its checksum and is masked out")
        self.corrupt |= corrupt
        row |= {"data_wait_share": self.wait_seconds / seconds, "corrupt_samples": len(self.corrupt)}
        self.tracker.log(self.step, row)
        self.tell({"kind": "step", "step": self.step, "total": self.total, "loss": mean_loss, "images_per_s": rate})
        self._restart_log()

    def _restart_log(self) -> None:
        self.log_step, self.log_clock, self.wait_seconds = self.step, time.monotonic(), 0.0

    def _predict(self) -> Predictions:
        rows = self.prepared.split.valid
        predictions = predict(self.scored, self.prepared.dataset, rows, self.run, self.world, self.tell)
        if not np.isfinite(predictions.logits).all():
            raise DivergedError(
                f"the network's outputs at step {self.step} are not finite; lower optim.lr (now {self.run.optim.lr:g}) "
                "or set optim.clip_norm, and start under another name"
            )
        return predictions

    def _averaged(self) -> AveragedModel:
        """An exponential moving average of weights and batch statistics, which forgets its start the faster."""
        decay = self.run.model.ema_decay

        def average(mean: torch.Tensor, value: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
            # The step is known here; torch's own count lies on the device and would have to be waited for.
            weight = min(decay, (1 + self.updates) / (10 + self.updates))
            return torch.lerp(value.to(mean.dtype), mean, weight) if mean.is_floating_point() else value

        return AveragedModel(self.network, avg_fn=average, use_buffers=True)

    def _seconds_of_epoch(self) -> float:
        return self.epoch_seconds + time.monotonic() - self.epoch_clock

    def _start_tracker(self) -> Tracker:
        if not self.world.is_chief:
            return Tracker(None, self._note)
        return Tracker.start(
            self.run.tracking,
            name=self.run.name,
            local=self.store.local() if self.store.is_local else None,
            where=f"{self.store.uri} {self.prepared.dataset.manifest.digest}",
            facts=self.run.to_dict() | {"facts": self.prepared.facts(self.run), "versions": versions()},
            warn=self._note,
        )

    def _note(self, text: str) -> None:
        self.tell({"kind": "note", "text": text})


def _distributed(module: nn.Module, world: World) -> nn.Module:
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)


def _no_sync(module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """DDP's gradient exchange only after the last micro-batch."""
    return nullcontext() if last or not isinstance(module, DistributedDataParallel) else module.no_sync()
