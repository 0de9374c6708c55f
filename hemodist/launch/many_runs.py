"""Many runs, as many at a time as the cluster has free slots for; one that fails does not stop the others."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from hemodist.cluster.fit import uses_gpu
from hemodist.cluster.rank import RankFunction
from hemodist.cluster.session import ClusterInfo, cluster, no_process_left_behind
from hemodist.cluster.side_by_side import run_side_by_side
from hemodist.cluster.workers import run_in_process, run_on_workers
from hemodist.config.operation import ScalingConfig
from hemodist.config.range_test import RangeTest
from hemodist.config.run import Run
from hemodist.errors import ConfigError, UserError
from hemodist.events import Tell
from hemodist.launch import run_folder
from hemodist.launch.ranks import wait_for_slots
from hemodist.models.checkpoints import Checkpoints
from hemodist.models.fold_runs import FINISHED
from hemodist.models.network import has_batch_norm
from hemodist.models.pretrained import check_pretrained
from hemodist.plan.prepare import Prepared, check_choice, check_resume, prepare
from hemodist.reports.terminal import TrainingView, console
from hemodist.storage.store import Store, join
from hemodist.training.found_lr import FOLDER as FIND_LR
from hemodist.training.found_lr import RESULT as FOUND_LR
from hemodist.training.found_lr import with_found_lr
from hemodist.training.loop import train
from hemodist.training.lr_range_test import run_range_test


def train_all(
    runs: Sequence[Run], scaling: ScalingConfig, at_once: int | None, finished: Callable[[Run], None]
) -> dict[str, str]:
    """Train runs and say what became of them.

    Args:
        runs: with absolute paths, not finished yet.
        scaling: of each of them.
        at_once: most at a time, or None.
        finished: called for each run that has ended well.

    Returns:
        What went wrong, by name of the run.

    Raises:
        ConfigError: there are not enough GPUs or CPUs for one run.
    """
    if not runs:
        return {}
    view = TrainingView([run.name for run in runs])
    if scaling.workers == 0:
        gpu = uses_gpu(scaling, torch.cuda.device_count())
        failed = {}
        with no_process_left_behind(), view:
            for run in runs:
                failed[run.name] = _outcome(run, partial(_in_process, gpu=gpu, tell=view.of(run.name)))
                _ended(run, failed[run.name], finished, view)
        return {name: text for name, text in failed.items() if text}
    if not os.environ.get("RAY_ADDRESS"):
        uses_gpu(scaling, torch.cuda.device_count())  # known before Ray is started
    with cluster(cpus=max(os.cpu_count() or 1, scaling.workers * scaling.fewest_cpus)) as info, view:
        now, gpu = wait_for_slots(scaling, info)
        most = min(at_once or len(runs), runs_at_a_time(scaling, now, gpu=gpu))
        console.print(f"{len(runs)} runs to train, up to {most} at a time")
        named = {run.name: run for run in runs}

        def ended(name: str, failure: str) -> None:
            _ended(named[name], failure, finished, view)

        return run_side_by_side(named, _look_after, most, view.of, ended, gpu=gpu)


def runs_at_a_time(scaling: ScalingConfig, info: ClusterInfo, *, gpu: bool) -> int:
    """How many runs fit at a time, at least 1; what an autoscaler may still add counts where it says how much."""
    cpus, gpus = (
        now + (0 if math.isinf(more) else more)
        for now, more in ((info.cpus, info.cpus_to_come), (info.gpus, info.gpus_to_come))
    )
    by_cpus = int(cpus // (scaling.workers * scaling.fewest_cpus))
    return max(1, min(by_cpus, int(gpus // scaling.workers)) if gpu else by_cpus)


def is_finished(run: Run, prepared: Prepared) -> bool:
    """Whether a run has been trained and scored.

    Raises:
        ConfigError: its folder holds another run of that name.
    """
    store = Store.open(join(run.output, run.name))
    finished = store.size(FINISHED) is not None
    saved = run_folder.result(store) if finished else Checkpoints(store, 1).newest_origin()
    if run.optim.lr == "found" and store.size(FOUND_LR) is not None:
        run = with_found_lr(run, prepared)
    if saved is None:
        check_choice(prepared, run)
    else:
        check_resume(saved, prepared, run, store.uri, batch_norm=not finished and has_batch_norm(run.model))
    if saved is not None and finished:  # a run that goes on has its weights from a checkpoint, this one its scores
        weights = Run.from_dict(saved["run"]).model.weights
        if weights != run.model.weights:
            raise ConfigError(
                f"{store.uri} holds a finished run: model.weights was {weights}, is {run.model.weights}; use another "
                "--output, or what it had"
            )
    return finished


def write_finished(run: Run, prepared: Prepared) -> None:
    """Write down that a run is finished, and what it was."""
    state = {"dataset": prepared.dataset.manifest.digest, "split": prepared.split.digest}
    record = {"run": with_found_lr(run, prepared).to_dict(), "state": state}
    Store.open(join(run.output, run.name)).write(FINISHED, (json.dumps(record, indent=2) + "\n").encode())


def check_weights(runs: Sequence[Run], flag: str = "--model.weights") -> None:
    """See that the weights of runs that have no checkpoint yet can be had, each once.

    Raises:
        UserError: see `check_pretrained`.
    """
    begun = (Checkpoints(Store.open(join(run.output, run.name)), 1).newest_origin() is not None for run in runs)
    for model in dict.fromkeys(run.model for run, has_begun in zip(runs, begun, strict=True) if not has_begun):
        check_pretrained(model, flag)


def _look_after(run: Run, gpu: bool, tell: Tell) -> str:
    """Train one run on its workers; returns what went wrong, or nothing."""

    def on_workers(function: RankFunction, argument: Any, name: str, folder: str) -> None:
        run_on_workers(function, argument, run.scaling, gpu=gpu, tell=tell, name=name, folder=folder)

    return _outcome(run, on_workers)


def _in_process(function: RankFunction, argument: Any, name: str, folder: str, *, gpu: bool, tell: Tell) -> None:
    run_in_process(function, argument, gpu=gpu, tell=tell, folder=folder)


def _outcome(run: Run, on_ranks: Callable[[RankFunction, Any, str, str], None]) -> str:
    """Find the learning rate where the run asks for that, and train; returns what went wrong, or nothing.

    Args:
        run: to be trained, or to go on.
        on_ranks: runs a function on every rank: (function, its argument, a name for Ray's files, the folder that it
            writes into).
    """
    folder = join(run.output, run.name)
    try:
        if run.optim.lr == "found":
            if Store.open(folder).size(FOUND_LR) is None:
                on_ranks(run_range_test, RangeTest(run), f"find-lr-{run.name}", join(folder, FIND_LR))
            run = with_found_lr(run, prepare(run))
        on_ranks(train, run, run.name, folder)
    except Exception as error:  # whatever it is, the other runs go on
        return _named(error)
    return ""


def _named(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _ended(run: Run, failure: str, finished: Callable[[Run], None], view: TrainingView) -> None:
    if not failure:
        finished(run)
    view.ended(run.name, failure)
