"""From a configuration to a finished run, as the driver sees it: every check first, then the workers."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hemodist.cluster.session import ClusterInfo, cluster, fills_up, look, no_process_left_behind
from hemodist.cluster.workers import RankFunction, check_room, run_in_process, run_on_workers, uses_gpu, waits_for_nodes
from hemodist.config.operation import ScalingConfig
from hemodist.config.run import Run
from hemodist.errors import ConfigError
from hemodist.models.checkpoints import Checkpoints
from hemodist.models.network import check as check_model
from hemodist.plan.prepare import check_resume, prepare
from hemodist.reports.page import scores_table
from hemodist.reports.terminal import TrainingView, console, facts_table
from hemodist.reports.wandb_run import resolve_mode
from hemodist.scoring.score_checkpoint import ScoringRequest, check_request, score_checkpoint
from hemodist.scoring.write_results import Results
from hemodist.storage.store import Store, join
from hemodist.training.found_lr import with_found_lr
from hemodist.training.loop import train as train_on_ranks

JOINING_SECONDS = 120.0
"""For the nodes of a cluster of fixed size to join a head that has just started again."""

_LOOK_SECONDS = 2.0


def train(run: Run) -> Results:
    """Check a run, print what follows from it, train it, and show the scores.

    Args:
        run: the configuration; `scaling.workers` 0 trains in this process, without Ray.

    Raises:
        UserError: before any worker starts, for whatever can be known by then.
    """
    prepared = prepare(run)
    check_model(run.model)
    store = Store.open(join(run.output, run.name))
    store.check_writable()
    run = with_found_lr(absolute(run), prepared)
    origin = Checkpoints(store, run.checkpoint.keep).newest_origin()
    if origin is not None:
        check_resume(origin, prepared, run, store.uri)
    mode = resolve_mode(run.tracking)
    facts = prepared.facts(run) | {"output": store.uri, "Weights & Biases": mode}
    console.print(facts_table(f"Run {run.name}", facts))
    if run.tracking.mode == "auto" and mode == "offline":
        console.print("W&B: WANDB_API_KEY is not set, so the run is logged offline; `wandb sync` uploads it later.")
    run = replace(run, tracking=replace(run.tracking, mode=mode))  # a worker's node may know another key
    conclusion: Results = run_ranks(train_on_ranks, run, run.scaling, name=run.name, folder=store.uri)
    show(conclusion)
    return conclusion


def evaluate(evaluation: ScoringRequest, scaling: ScalingConfig) -> Results:
    """Check that checkpoint and data set fit, score, and show the scores.

    Raises:
        UserError: before any worker starts, for whatever can be known by then.
    """
    _, run, dataset = check_request(evaluation)
    store = Store.open(evaluation.output)
    store.check_writable()
    evaluation = replace(evaluation, output=store.uri, dataset=dataset.store.uri)
    masks = evaluation.options.masks
    if masks:
        options = replace(evaluation.options, masks=Store.open(masks).uri)
        evaluation = replace(evaluation, options=options)
    if "://" not in evaluation.checkpoint:
        evaluation = replace(evaluation, checkpoint=str(Path(evaluation.checkpoint).resolve()))
    conclusion: Results = run_ranks(
        score_checkpoint, evaluation, scaling, name=f"evaluate-{run.name}", folder=store.uri
    )
    show(conclusion)
    return conclusion


def run_ranks(function: RankFunction, argument: Any, scaling: ScalingConfig, *, name: str, folder: str) -> Any:
    """Run a function on the ranks that `scaling` asks for, showing what rank 0 tells; returns its result.

    Raises:
        UserError: there are not enough GPUs or CPUs, or see `run_on_workers`.
    """
    view = TrainingView()
    if scaling.workers == 0:
        gpu = uses_gpu(scaling, torch.cuda.device_count())
        console.print(device_line(scaling, torch.cuda.device_count(), gpu=gpu))
        with no_process_left_behind(), view:
            return run_in_process(function, argument, gpu=gpu, tell=view, folder=folder)
    with _checked_cluster(scaling) as gpu, view:
        return run_on_workers(function, argument, scaling, gpu=gpu, tell=view, name=name, folder=folder)


def absolute(run: Run) -> Run:
    """The same run with absolute paths, since workers have another working directory."""
    data = replace(
        run.data, dataset=Store.open(run.data.dataset).uri, cache=str(Path(run.data.cache).expanduser().resolve())
    )
    weights = run.model.weights
    if Path(weights).expanduser().is_file():  # not the name of one of torchvision's
        weights = str(Path(weights).expanduser().resolve())
    return replace(run, output=Store.open(run.output).uri, data=data, model=replace(run.model, weights=weights))


@contextlib.contextmanager
def _checked_cluster(scaling: ScalingConfig) -> Iterator[bool]:
    """Ray with room for the workers; yields whether they use GPUs."""
    if not os.environ.get("RAY_ADDRESS"):
        uses_gpu(scaling, torch.cuda.device_count())  # known before Ray is started
    with cluster(cpus=max(os.cpu_count() or 1, scaling.workers * scaling.cpus_per_worker)) as info:
        info, gpu = room(scaling, info)
        console.print(device_line(scaling, info.gpus, gpu=gpu))
        yield gpu


def room(scaling: ScalingConfig, info: ClusterInfo) -> tuple[ClusterInfo, bool]:
    """Check that the workers fit, and say what is waited for; nodes that KubeRay starts again have a while to join.

    Returns:
        The cluster as it is then, and whether the workers use GPUs.

    Raises:
        ConfigError: the workers would wait for ever.
    """
    deadline, said = time.monotonic() + JOINING_SECONDS, False
    while True:
        try:
            gpu = check_room(scaling, info)
        except ConfigError as error:
            if not fills_up(info) or time.monotonic() > deadline:
                raise
            if not said:
                console.print(f"{error}. Nodes may still be joining: waiting up to {JOINING_SECONDS:.0f} s.")
                said = True
            time.sleep(_LOOK_SECONDS)
            info = look(joined=True)
            continue
        if note := waits_for_nodes(scaling, info, gpu=gpu):
            console.print(note)
        return info, gpu


def device_line(scaling: ScalingConfig, gpus: int, *, gpu: bool) -> str:
    """What the ranks compute on, and where that may surprise, why; nothing falls back to CPUs in silence."""
    if gpu:
        names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
        named = f" ({', '.join(sorted(names))})" if names else ""
        workers = max(scaling.workers, 1)
        asked = f"{workers} of {gpus} GPUs" if workers <= gpus else f"{workers} GPUs, of which {gpus} are there"
        return f"device: {asked}{named}, {scaling.precision}"
    if scaling.device == "cpu":
        return "device: CPU, as asked for"
    if Path("/dev/nvidiactl").exists():
        return "device: CPU, although this machine has an NVIDIA GPU: see what `nvidia-smi` and jobs/doctor.py say"
    return "device: CPU, there is no GPU"


def show(conclusion: Results) -> None:
    """Print the scores beside the trivial baselines, and where the report is."""
    if conclusion.scores is not None:
        extras = conclusion.extras
        console.print(scores_table(conclusion.scores, conclusion.extra_baselines(), extras.pooled, extras.pointing))
    console.print(f"report: {conclusion.report}", soft_wrap=True)
