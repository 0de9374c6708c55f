"""Score a checkpoint on a data set, on any number of ranks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from hemodist import model
from hemodist.checkpoint import open_checkpoint
from hemodist.conclude import Conclusion, conclude
from hemodist.config import Run, check
from hemodist.errors import ConfigError
from hemodist.evaluation import predict
from hemodist.manifest import UNKNOWN, DataSet
from hemodist.prepare import divide
from hemodist.split import label_report
from hemodist.store import Store
from hemodist.world import Tell, World


@dataclass(frozen=True)
class Evaluation:
    """What is to be scored.

    Attributes:
        checkpoint: a run's folder (its best checkpoint) or a `.pt` file.
        dataset: path or URI of a finished data set.
        output: folder or URI for scores, predictions and report.
        part: `valid`, the validation split of the run's own configuration; `all` labelled slices; `auto` is valid on
            the data set that the run was trained on, and all of any other.
    """

    checkpoint: str
    dataset: str
    output: str
    part: Literal["auto", "valid", "all"] = "auto"


def check_evaluation(evaluation: Evaluation) -> tuple[dict[str, Any], Run, DataSet]:
    """Open checkpoint and data set and check that they fit.

    Raises:
        UserError: one of them cannot be read, or they do not fit.
    """
    saved = open_checkpoint(evaluation.checkpoint)
    run = Run.from_dict(saved["run"])
    check(replace(run, data=replace(run.data, dataset=evaluation.dataset)))
    dataset = DataSet.open(evaluation.dataset)
    for name in ("windows", "size"):
        trained, given = saved["sharding"][name], dataset.manifest.config[name]
        if trained != given:
            raise ConfigError(
                f"the checkpoint was trained on slices with {name} {trained}, {dataset.store.uri} has {given}; "
                "shard the data set again with what the checkpoint was trained on"
            )
    return saved, run, dataset


def evaluate(evaluation: Evaluation, world: World, tell: Tell) -> Conclusion:
    """Score the checkpoint; every rank computes its part.

    Raises:
        UserError: see `check_evaluation`, or nothing is there to score.
    """
    saved, run, dataset = check_evaluation(evaluation)
    own = saved["state"]["dataset"] == dataset.manifest.digest
    run = replace(run, data=replace(run.data, dataset=evaluation.dataset))
    if evaluation.part == "valid" or (evaluation.part == "auto" and own):
        rows, part = divide(run.data, dataset).valid, f"validation fold {run.data.valid_fold} of {run.data.folds}"
    else:
        labelled = (dataset.labels() != UNKNOWN).any(axis=1) & ~dataset.column("duplicate")
        rows, part = np.flatnonzero(labelled), "all labelled slices"
    if not len(rows):
        raise ConfigError(f"{dataset.store.uri} has no labelled slice to score; shard again with --labels CSV")
    network = model.build(replace(run.model, weights="none"))
    # A moving average's own state has the network below `module`; `scored` is the plain network that was scored.
    network.load_state_dict(saved["scored"])
    predictions = predict(network.to(world.device), dataset, rows, run, world, tell)
    if not world.is_chief:
        return Conclusion.elsewhere(evaluation.output)
    return conclude(
        Store.open(evaluation.output),
        dataset,
        predictions,
        title=f"{run.name}, step {saved['state']['step']}",
        history=saved["state"]["history"],
        train_prevalence=np.array(saved["prevalence"]),
        config=run.to_dict(),
        facts={
            "data set": dataset.store.uri,
            "data set digest": dataset.manifest.digest,
            "scored": part,
            "split": label_report(dataset.labels(), {"scored": rows}),
        },
        notes=[f"Scored: {evaluation.checkpoint} on {part} of {dataset.store.uri}."],
    )
