"""Runs a function on the ranks that a configuration asks for: in this process, or on a cluster with slots for them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hemodist.cluster.fit import check_slots, uses_gpu, waiting_for_nodes
from hemodist.cluster.rank import RankFunction
from hemodist.cluster.session import ClusterInfo, cluster, fills_up, look, no_process_left_behind
from hemodist.cluster.workers import run_in_process, run_on_workers
from hemodist.config.operation import ScalingConfig
from hemodist.errors import ConfigError
from hemodist.reports.terminal import TrainingView, console

JOINING_SECONDS = 120.0
"""How long the nodes of a cluster of fixed size may take to join a head that has just started again."""

_LOOK_SECONDS = 2.0


def run_ranks(
    function: RankFunction,
    argument: Any,
    scaling: ScalingConfig,
    *,
    name: str,
    folder: str,
    view: TrainingView | None = None,
) -> Any:
    """Run a function on the ranks that `scaling` asks for, showing what rank 0 tells in `view`; returns its result.

    Raises:
        UserError: there are not enough GPUs or CPUs, or see `run_on_workers`.
    """
    view = view or TrainingView()
    if scaling.workers == 0:
        gpu = uses_gpu(scaling, torch.cuda.device_count())
        console.print(device_line(scaling, torch.cuda.device_count(), gpu=gpu))
        with no_process_left_behind(), view:
            return run_in_process(function, argument, gpu=gpu, tell=view, folder=folder)
    with _checked_cluster(scaling) as gpu, view:
        return run_on_workers(function, argument, scaling, gpu=gpu, tell=view, name=name, folder=folder)


@contextlib.contextmanager
def _checked_cluster(scaling: ScalingConfig) -> Iterator[bool]:
    """Ray, with slots for the workers for the length of a `with` block; yields whether they use GPUs."""
    if not os.environ.get("RAY_ADDRESS"):
        uses_gpu(scaling, torch.cuda.device_count())  # known before Ray is started
    with cluster(cpus=max(os.cpu_count() or 1, scaling.workers * scaling.fewest_cpus)) as info:
        info, gpu = wait_for_slots(scaling, info)
        console.print(device_line(scaling, info.gpus, gpu=gpu))
        yield gpu


def wait_for_slots(scaling: ScalingConfig, info: ClusterInfo) -> tuple[ClusterInfo, bool]:
    """Check that the cluster has slots for the workers, or may come to have them, and say what is waited for.

    Nodes that KubeRay starts again after the head was lost get `JOINING_SECONDS` to join.

    Returns:
        The cluster after the wait, and whether the workers use GPUs.

    Raises:
        ConfigError: the workers would wait for ever.
    """
    deadline, said = time.monotonic() + JOINING_SECONDS, False
    while True:
        try:
            gpu = check_slots(scaling, info)
        except ConfigError as error:
            if not fills_up(info) or time.monotonic() > deadline:
                raise
            if not said:
                console.print(f"{error}. Nodes may still be joining: waiting up to {JOINING_SECONDS:.0f} s.")
                said = True
            time.sleep(_LOOK_SECONDS)
            info = look(joined=True)
            continue
        if note := waiting_for_nodes(scaling, info, gpu=gpu):
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
