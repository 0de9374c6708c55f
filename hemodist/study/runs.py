"""Many runs, as many at a time as the cluster has free slots for; one that fails does not stop the others."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hemodist.cluster.fit import uses_gpu
from hemodist.cluster.mailbox import Mailbox
from hemodist.cluster.rank import RankFunction
from hemodist.cluster.session import ClusterInfo, cluster, no_process_left_behind
from hemodist.cluster.workers import run_in_process, run_on_workers
from hemodist.config.operation import ScalingConfig
from hemodist.config.range_test import RangeTest
from hemodist.config.run import Run
from hemodist.errors import UserError
from hemodist.events import Event, Tell
from hemodist.launch.ranks import wait_for_slots
from hemodist.plan.prepare import prepare
from hemodist.reports.terminal import TrainingView, console
from hemodist.storage.store import Store, join
from hemodist.training.found_lr import FOLDER as FIND_LR
from hemodist.training.found_lr import RESULT as FOUND_LR
from hemodist.training.found_lr import with_found_lr
from hemodist.training.loop import train
from hemodist.training.lr_range_test import run_range_test

_POLL_SECONDS = 0.3
_RETRIES = 3  # of the process that looks after a run; the run goes on from its checkpoint


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
        return _train_on_cluster(runs, most, finished, view, gpu=gpu)


def runs_at_a_time(scaling: ScalingConfig, info: ClusterInfo, *, gpu: bool) -> int:
    """How many runs fit at a time, at least 1; what an autoscaler may still add counts where it says how much."""
    cpus, gpus = (
        now + (0 if math.isinf(more) else more)
        for now, more in ((info.cpus, info.cpus_to_come), (info.gpus, info.gpus_to_come))
    )
    by_cpus = int(cpus // (scaling.workers * scaling.fewest_cpus))
    return max(1, min(by_cpus, int(gpus // scaling.workers)) if gpu else by_cpus)


def _train_on_cluster(
    runs: Sequence[Run], at_a_time: int, finished: Callable[[Run], None], view: TrainingView, *, gpu: bool
) -> dict[str, str]:
    # On the driver's node, so that they live as long as the driver.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()
    # A process of its own looks after each run, so that what ends one, a crash even, leaves the others alone.
    look_after = ray.remote(num_cpus=0, max_retries=_RETRIES, scheduling_strategy=here)(_look_after)
    waiting, running, failed = list(runs), dict[Any, Run](), dict[str, str]()
    while waiting or running:
        while waiting and len(running) < at_a_time:
            run = waiting.pop(0)
            running[look_after.remote(run, gpu, mailbox)] = run
        done, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
        events: list[tuple[str, Event]] = ray.get(mailbox.take.remote())
        for name, event in events:
            view.of(name)(event)
        for reference in done:
            run = running.pop(reference)
            try:
                text = ray.get(reference)
            except RayError as error:
                text = _named(error)
            if text:
                failed[run.name] = text
            _ended(run, text, finished, view)
    return failed


def _look_after(run: Run, gpu: bool, mailbox: Any) -> str:
    """Train one run on its workers; returns what went wrong, or nothing."""

    def tell(event: Event) -> None:
        mailbox.put.remote((run.name, event))

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
