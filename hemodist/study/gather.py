"""From finished runs to systems that can be compared: all their answers on the slices that each has scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hemodist.config.run import Run
from hemodist.config.training import ModelConfig
from hemodist.dataset.labels import LABELS
from hemodist.errors import ConfigError
from hemodist.launch import run_folder
from hemodist.metrics.bootstrap import F64, resamples
from hemodist.metrics.paired import resample_scores
from hemodist.metrics.probabilities import with_prevalence
from hemodist.models.network import build_network
from hemodist.plan.prepare import Prepared
from hemodist.scoring.write_results import PREDICTIONS, TEST_PREDICTIONS
from hemodist.storage.store import Store, join
from hemodist.study.classical import fit_methods, statistics
from hemodist.study.options import recipe_of
from hemodist.study.system import Kind, System


def gather(
    runs: Sequence[Run], prepared: Prepared, *, classical: bool, replicates: int
) -> tuple[list[System], npt.NDArray[np.int8]]:
    """The constant answer, the classical methods and the networks on the same slices, of the test fold if there is one.

    Args:
        runs: finished, on the same split; those of one recipe are one system.
        prepared: of any of them.
        classical: whether to fit the classical methods.
        replicates: resamples of the patients.

    Returns:
        The systems, and int8 [n, 6], the labels of the slices that all of them have answered for: corrupt samples that
        were masked out are not among them.
    """
    dataset = prepared.dataset
    scored, file = prepared.split.valid, PREDICTIONS
    if len(prepared.split.test):  # on which nothing was chosen, neither an epoch nor a learning rate
        scored, file = prepared.split.test, TEST_PREDICTIONS
    keys = dataset.index.column("key").take(pa.array(scored)).combine_chunks()
    folders = {run.name: Store.open(join(run.output, run.name)) for run in runs}
    predicted = {name: run_folder.predictions(folder, file, keys) for name, folder in folders.items()}
    rows = scored[np.all([np.isfinite(values).any(axis=1) for values in predicted.values()], axis=0)]
    if not len(rows):
        names = ", ".join(predicted)
        raise ConfigError(f"there is no slice of the split that all runs have answered for: {names}; delete these runs")
    if classical:
        train = statistics(dataset, prepared.split.train, runs[0].data)
        asked = statistics(dataset, rows, runs[0].data)
        rows = asked.rows
    chosen = np.searchsorted(scored, rows)
    labels = prepared.labels[rows]
    groups = np.unique(dataset.resampled_groups(rows), return_inverse=True)[1].astype(np.int64)
    counts = resamples(int(groups.max()) + 1, replicates, 0)

    def system(name: str, kind: Kind, probability: F64, **more: Any) -> System:
        return System(name, kind, resample_scores(name, probability, labels, groups, counts), **more)

    constant = np.broadcast_to(prepared.train_prevalence, (1, *labels.shape))
    found = [system("constant prevalence", "constant", constant, parameters=len(LABELS))]
    if classical:
        known = prepared.labels[train.rows], dataset.column("group")[train.rows]
        for method in fit_methods(train, *known, asked, seed=runs[0].seed):
            seconds = train.seconds + method.seconds
            more = {"seconds": (seconds,), "images_per_s": (len(train.rows) / seconds,)}
            probability = method.probability[None]
            found.append(system(method.name, "classical", probability, parameters=method.parameters, **more))
    for recipe in dict.fromkeys(map(recipe_of, runs)):
        mine = [run for run in runs if recipe_of(run) == recipe]
        histories = tuple(run_folder.history(folders[run.name], run) for run in mine)
        found.append(
            system(
                recipe,
                "network",
                np.stack([with_prevalence(predicted[run.name][chosen], prepared.train_prevalence) for run in mine]),
                parameters=parameters(mine[0].model),
                seconds=tuple(sum(row["seconds"] for row in history) for history in histories),
                images_per_s=tuple(float(np.median([row["images_per_s"] for row in h])) for h in histories),
                seeds=tuple(run.seed for run in mine),
                histories=histories,
                chosen_by=mine[0].stop.score,
            )
        )
    return found, labels


def parameters(config: ModelConfig) -> int:
    """Trainable numbers of a network; no memory is spent on them.

    >>> parameters(ModelConfig(name="resnet18"))
    11179590
    """
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_network(config).parameters())
