"""Which slices are scored, by which network, and why the scores may be too good.

One network answers for all of them. Of a k-fold run's networks each answers for the fold that it has not seen (out of
fold); for slices that none of them has seen, such as a test fold or another data set, their probabilities are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from hemodist.config.run import Run
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import UNKNOWN
from hemodist.errors import ConfigError
from hemodist.events import Tell
from hemodist.metrics.predictions import Predictions
from hemodist.models.trained import Trained, View, joint_logits
from hemodist.plan.prepare import divide
from hemodist.plan.split import Rows
from hemodist.scoring.options import ScoringRequest
from hemodist.scoring.run_network import run_each_over_split, run_over_split
from hemodist.world import World


@dataclass(frozen=True, eq=False)
class RowsToScore:
    """What is scored.

    Attributes:
        rows: int64 [n], of the index, increasing.
        part: which they are, in words.
        parts: rows of the split by name, for the report.
        of_folds: out of fold, the rows that each network answers for; empty where all answer for all.
        warning: why the scores may be better than those of new patients; empty where they are not.
    """

    rows: Rows
    part: str
    parts: dict[str, Rows]
    of_folds: tuple[Rows, ...] = ()
    warning: str = ""


def rows_to_score(request: ScoringRequest, networks: Sequence[Trained], dataset: DataSet) -> RowsToScore:
    """The rows that a request asks for.

    Args:
        request: which part.
        networks: one, or those of a k-fold run.
        dataset: that it is asked for of.

    Raises:
        ConfigError: there are none, or the data set is not the one that has such a part.
    """
    run, k = networks[0].run, len(networks)
    own = networks[0].saved["state"]["dataset"] == dataset.manifest.digest
    part = request.options.part if request.options.part != "auto" else "valid" if own else "all"
    if part == "all":
        return _all(networks, dataset, own=own)
    divided = [divide(trained.run.data, dataset) for trained in networks]
    if not own:
        raise ConfigError(
            f"{dataset.store.uri} is not the data set that {run.name} was trained on, so that its {part} fold may hold "
            "patients of the training; give the run's own data set, or --part all where none of them is in it"
        )
    chosen = "best checkpoint was chosen on this very part, so the scores are a little too good."
    if part == "valid" and k > 1:
        of_folds = tuple(one.valid for one in divided)
        rows = np.sort(np.concatenate(of_folds))
        text = f"the validation folds of {k} networks, each slice by the one that has not learned its fold,"
        return RowsToScore(rows, text, {"scored": rows}, of_folds, f"Each network's {chosen}")
    parts = {"train": divided[0].train, "valid": divided[0].valid}
    fold = run.data.valid_fold
    if part == "test":
        if run.data.test_fold is None:
            raise ConfigError(f"run {run.name} kept no test fold (data.test_fold is None); use --part valid")
        if k > 1:
            parts = {"train and valid": np.union1d(parts["train"], parts["valid"])}
        parts["test"], fold = divided[0].test, run.data.test_fold
    if not len(parts[part]):
        raise ConfigError(
            f"{dataset.store.uri} has no slice in the {part} fold {fold} of {run.data.folds}; use another --part"
        )
    warning = f"The run's {chosen}" if part == "valid" else ""
    return RowsToScore(parts[part], f"{part} fold {fold} of {run.data.folds}", parts, warning=warning)


def predict_rows(
    networks: Sequence[Trained],
    dataset: DataSet,
    asked: RowsToScore,
    run: Run,
    world: World,
    tell: Tell,
    views: Sequence[View],
) -> Predictions:
    """What the networks say of the rows; every rank computes its part and gets all.

    Args:
        networks: on any device.
        dataset: the data set.
        asked: the rows, and who answers for them.
        run: batch size, cache and the like, the same for all networks.
        world: the ranks.
        tell: told of the progress.
        views: flips whose probabilities are averaged.
    """
    kinds = [trained.kinds for trained in networks]
    if asked.of_folds:
        # A label counts as learned where all networks have learned it.
        answers = [
            run_over_split(trained.network.to(world.device), dataset, rows, run, world, tell, views)
            for trained, rows in zip(networks, asked.of_folds, strict=True)
        ]
        rows = np.concatenate([one.rows for one in answers])
        folds = np.concatenate(
            [np.full(len(one.rows), each.run.data.valid_fold) for each, one in zip(networks, answers, strict=True)]
        )
        order = np.argsort(rows)
        logits = np.concatenate([one.logits for one in answers])[order]
        blood = np.concatenate([one.blood for one in answers])[order]
        return Predictions(rows[order], logits, blood, np.min(kinds, axis=0), folds[order])
    models = [trained.network.to(world.device) for trained in networks]
    first, *others = run_each_over_split(models, dataset, asked.rows, run, world, tell, views)
    if not others:
        return replace(first, kinds=kinds[0])
    every = [torch.from_numpy(one.logits) for one in (first, *others)]
    joint = joint_logits(every, [trained.learned for trained in networks]).numpy().astype(np.float32)
    return replace(first, logits=joint, kinds=np.max(kinds, axis=0))


def _all(networks: Sequence[Trained], dataset: DataSet, *, own: bool) -> RowsToScore:
    """All labelled slices, those of the training among them where the data set is the training's `own`."""
    labelled = (dataset.labels() != UNKNOWN).any(axis=1) & ~dataset.column("duplicate")
    rows = np.flatnonzero(labelled)
    if not len(rows):
        raise ConfigError(
            f"{dataset.store.uri} has no labelled slice to score among its {dataset.manifest.samples} samples; "
            "shard again with --labels CSV, or use jobs/predict.py, which needs no labels"
        )
    text, parts = "all labelled slices", {"scored": rows}
    if not own:
        return RowsToScore(
            rows,
            text,
            parts,
            warning="This is not the data set of the training. Pseudonyms differ from data set to data set, so nobody "
            "can tell here whether patients of the training are among the scored ones; if so, the scores are too good.",
        )
    divided = [divide(trained.run.data, dataset) for trained in networks]
    parts["train"] = np.unique(np.concatenate([one.train for one in divided]))
    parts["valid"] = np.unique(np.concatenate([one.valid for one in divided]))
    warning = ""
    if learned := len(np.intersect1d(rows, parts["train"])):
        warning = (
            f"The network was trained on {learned:,} of the {len(rows):,} scored slices: these scores say nothing of "
            "new patients. --part valid or test scores slices that it has not learned."
        )
    return RowsToScore(rows, text, parts, warning=warning)
