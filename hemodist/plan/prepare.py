"""Everything about a run that is known before any worker starts: data set, split, plan, number of steps.

The driver calls this to find mistakes early and to print the numbers; every worker calls it again and gets the same,
since all of it is a pure function of the configuration and the data set.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hemodist.config.data import BatchConfig, DataConfig
from hemodist.config.fields import DecidesResult, values_marked
from hemodist.config.run import Run, check
from hemodist.config.shares import share_bounds
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.errors import ConfigError
from hemodist.plan import sampling_weights
from hemodist.plan.cache_need import check_cache_holds
from hemodist.plan.label_gaps import kinds, known_share, not_learned_note, validation_note
from hemodist.plan.order import Plan
from hemodist.plan.split import Split, fold_report, label_report, split


@dataclass(frozen=True, eq=False)
class Prepared:
    """A run, ready to start.

    Attributes:
        dataset: opened and checked.
        labels: int8 [samples, 6].
        split: which rows train and validate.
        plan: the order of training.
        total_steps: optimizer updates of the whole run.
        train_prevalence: float64 [6], the `prevalence` of the training split.
        kinds: int8 [6], how many kinds (positive, negative) of each label the training split knows; 2 can be learned.
        known_share: of the training split's label weights, how much is known (`plan.label_gaps.known_share`), 0 to 1.
    """

    dataset: DataSet
    labels: npt.NDArray[np.int8]
    split: Split
    plan: Plan
    total_steps: int
    train_prevalence: npt.NDArray[np.float64]
    kinds: npt.NDArray[np.int8]
    known_share: float

    def facts(self, run: Run) -> dict[str, Any]:
        """The derived numbers, for the terminal, W&B and the report."""
        workers = max(run.scaling.workers, 1)
        batch = run.batch
        shares = [share_bounds(batch.global_batch_size, batch.mix_group, rank, workers) for rank in range(workers)]
        sizes = sorted({stop - start for start, stop in shares})
        return {
            "data set": self.dataset.store.uri,
            "data set digest": self.dataset.manifest.digest,
            "samples": self.dataset.manifest.samples,
            "split digest": self.split.digest,
            "split": label_report(self.labels, self.parts()),
            "fold": fold_report(
                self.labels,
                self.dataset.column("group"),
                usable(self.dataset),
                folds=run.data.folds,
                seed=run.data.fold_seed,
            ),
            "sampling": self._sampling(run.batch),
            "groups": len(np.unique(self.dataset.column("group"))),
            "steps": self.total_steps,
            "samples a step": batch.global_batch_size,
            "samples a step and worker": " or ".join(map(str, sizes)),
        }

    def gaps(self, run: Run) -> list[str]:
        """What the split cannot teach and cannot tell, a sentence each.

        None where all files name somebody, and both sides have both kinds of each label.
        """
        validation = validation_note(
            self.labels,
            self.split.valid,
            self.dataset.column("group"),
            usable(self.dataset),
            folds=run.data.folds,
            fold=run.data.valid_fold,
            seed=run.data.fold_seed,
        )
        nameless = self.dataset.nameless_note(np.concatenate([*self.parts().values()]))
        return [note for note in (nameless, not_learned_note(self.labels[self.split.train]), validation) if note]

    def parts(self) -> dict[str, npt.NDArray[np.int64]]:
        """Rows of the split by name; `test` only where a fold is held out."""
        named = {"train": self.split.train, "valid": self.split.valid, "test": self.split.test}
        return {name: rows for name, rows in named.items() if len(rows)}

    def _sampling(self, batch: BatchConfig) -> str:
        if self.plan.weights is None:
            return "every training slice once an epoch"
        times = self.plan.weights * (len(self.plan.weights) / self.plan.weights.sum())
        return f"{batch.sampling}: a training slice {times.min():.3g} to {times.max():.3g} times an epoch"


def usable(dataset: DataSet) -> npt.NDArray[np.bool_]:
    """What a split may use, bool [samples]: no second copies of a slice, and none without any known label."""
    result: npt.NDArray[np.bool_] = (dataset.labels() != UNKNOWN).any(axis=1) & ~dataset.column("duplicate")
    return result


def divide(config: DataConfig, dataset: DataSet) -> Split:
    """The split of the `usable` samples of a data set.

    Raises:
        ConfigError: nothing is left, or a side would be empty.
    """
    labelled = (dataset.labels() != UNKNOWN).any(axis=1)
    if not labelled.any():
        raise ConfigError(
            f"none of the {len(labelled)} samples of {dataset.store.uri} has a label; "
            "shard again with --labels CSV to train or evaluate on it"
        )
    return split(
        dataset.column("group"),
        selected(config, dataset.labels(), usable(dataset)),
        folds=config.folds,
        valid_fold=config.valid_fold,
        test_fold=config.test_fold,
        seed=config.fold_seed,
        subset=config.subset,
    )


def selected(config: DataConfig, labels: npt.NDArray[np.int8], usable: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which usable samples `data.selection` takes, bool [samples]; balanced takes none where `any` is unknown.

    Args:
        config: the selection.
        labels: int8 [samples, 6], in shard order, which is a random order.
        usable: bool [samples].
    """
    if config.selection == "all":
        return usable
    positive, negative = usable & (labels[:, 0] == 1), usable & (labels[:, 0] == 0)
    chosen: npt.NDArray[np.bool_] = positive | (negative & (np.cumsum(negative) <= positive.sum()))
    return chosen


def prepare(run: Run) -> Prepared:
    """Check a run and work out everything that follows from it.

    Raises:
        ConfigError: a field cannot work.
        DatasetError: the data set is missing, unfinished or damaged.
    """
    check(run)
    dataset = DataSet.open(run.data.dataset)
    parts = divide(run.data, dataset)
    labels = dataset.labels()
    if run.batch.global_batch_size > len(parts.train):
        raise ConfigError(
            f"batch.global_batch_size {run.batch.global_batch_size} is more than the {len(parts.train)} training "
            "slices; use a smaller batch, a larger data.subset or a larger data set"
        )
    plan = Plan(
        rows=parts.train,
        shards=dataset.column("shard")[parts.train],
        seed=run.seed,
        global_batch_size=run.batch.global_batch_size,
        mix_group=run.batch.mix_group,
        block_shards=run.batch.block_shards,
        weights=_weights(run.batch, labels[parts.train]),
    )
    if not dataset.store.is_local and run.data.cache_bytes is not None:
        check_cache_holds(
            dataset.manifest.shards,
            plan.shards_at_once(run.optim.epochs, run.data.prefetch or 0),
            run.data.cache_bytes,
            run.data.cache,
        )
    total = plan.steps(run.optim.epochs)
    if run.optim.warmup_steps is not None and run.optim.warmup_steps >= total:
        raise ConfigError(
            f"optim.warmup_steps {run.optim.warmup_steps} would last longer than the run's {total} steps, which would "
            "never learn at its full rate; use fewer, or none for a tenth of the run"
        )
    train = labels[parts.train]
    return Prepared(
        dataset, labels, parts, plan, total, prevalence(train), kinds(train), known_share(train, plan.weights)
    )


def prevalence(labels: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
    """The best constant probability for each label, float64 [6], which a network has to beat: the share of positives.

    Slices where the label is unknown do not count. Where all slices are positive, or none is, half a slice of the other
    kind is added (Krichevsky and Trofimov 1981), since a constant 0 or 1 is infinitely wrong about the first exception.
    A label that is known nowhere gets 1/2.

    >>> prevalence(np.array([[1, 0, -1], [0, 0, -1]], np.int8)).round(3).tolist()
    [0.5, 0.167, 0.5]
    """
    known, positive = (labels != UNKNOWN).sum(axis=0), (labels == 1).sum(axis=0)
    one_kind = (positive == 0) | (positive == known)
    share: npt.NDArray[np.float64] = np.where(one_kind, (positive + 0.5) / (known + 1), positive / np.maximum(known, 1))
    return share


def fold_runs(run: Run) -> list[Run]:
    """The runs of a cross-validation: each fold but the test fold validates once; their names end in the fold's."""
    return [
        replace(run, name=f"{run.name}-fold{fold}", data=replace(run.data, valid_fold=fold))
        for fold in range(run.data.folds)
        if fold != run.data.test_fold
    ]


def _weights(batch: BatchConfig, labels: npt.NDArray[np.int8]) -> npt.NDArray[np.int64] | None:
    if batch.sampling == "balanced":
        return sampling_weights.balanced(labels)
    if batch.sampling == "weighted":
        weights = sampling_weights.weighted(labels, batch.label_weights)
        if not weights.any():
            raise ConfigError(f"batch.label_weights {batch.label_weights} leave no training slice; use one above 0")
        return weights
    return None


def _other_statistics(before: Run, now: Run) -> list[str]:
    """What makes batch norm see other micro-batches than before. A run that may shrink or grow has accepted that."""
    why = "which with batch norm is another training"
    found = []
    if before.batch.accumulate != now.batch.accumulate:
        found.append(f"batch.accumulate was {before.batch.accumulate}, is {now.batch.accumulate}, {why}")
    ranks = [range(one.scaling.fewest, max(one.scaling.workers, 1) + 1) for one in (before, now)]
    if not now.model.sync_batch_norm and not set(ranks[0]) & set(ranks[1]):
        found.append(f"scaling.workers was {before.scaling.workers}, is {now.scaling.workers}, {why}")
    return found


def check_choice(prepared: Prepared, run: Run) -> None:
    """Check that the score which chooses a new run's best checkpoint is defined on its validation split.

    Raises:
        ConfigError: it is not; the text names the folds on which it is.
    """
    if run.stop.score == "auc_any" and kinds(prepared.labels[prepared.split.valid])[LABELS.index("any")] < 2:
        raise ConfigError(
            f"stop.score auc_any cannot choose a checkpoint: {prepared.gaps(run)[-1]}; use another data.valid_fold, or "
            "stop.score weighted_log_loss"
        )


def check_resume(saved: dict[str, Any], prepared: Prepared, run: Run, where: str, *, batch_norm: bool) -> None:
    """Check that a checkpoint is of this very run: the same samples in the same order, the same network and optimizer.

    Args:
        saved: the checkpoint.
        prepared: what follows from `run`.
        run: the configuration that is to go on.
        where: the run's place, for the message.
        batch_norm: whether the network has batch statistics, which see a rank's micro-batch and not the global batch.

    Raises:
        ConfigError: naming what differs.
    """
    # Through `Run`, so that fields that are younger than the checkpoint have their defaults.
    earlier = Run.from_dict(saved["run"])
    before, now = (values_marked(one, DecidesResult) for one in (earlier, run))
    before |= {"dataset": saved["state"]["dataset"], "split": saved["state"]["split"]}
    now |= {"dataset": prepared.dataset.manifest.digest, "split": prepared.split.digest}
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    differing = [f"{name} was {before.get(name)}, is {now.get(name)}" for name in names]
    if batch_norm:
        differing += _other_statistics(earlier, run)
    if differing:
        raise ConfigError(
            f"{where} holds a run that cannot go on: {'; '.join(differing)}; use another name, or what it had"
        )
