"""Ranks under Ray Train: one function on every worker, or in the calling process, and what they tell the terminal."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hemodist.config import ScalingConfig
from hemodist.errors import ConfigError, UserError
from hemodist.world import Tell, World

logging.getLogger("ray.train").setLevel(logging.WARNING)  # the terminal says what happens

_POLL_SECONDS = 0.3
"""Between two looks into the mailbox; the terminal needs no more."""

RankFunction = Callable[[Any, World, Tell], Any]
"""What every rank runs: (argument, world, tell) -> result; defined in the library, so that workers can import it."""


def uses_gpu(scaling: ScalingConfig, gpus: int) -> bool:
    """Whether the ranks compute on GPUs.

    Args:
        scaling: `device` and `workers`.
        gpus: how many there are.

    Raises:
        ConfigError: GPUs are asked for that are not there.
    """
    wanted = max(scaling.workers, 1)
    if scaling.device == "cpu" or (scaling.device == "auto" and gpus == 0):
        return False
    if gpus < wanted:
        raise ConfigError(
            f"scaling.workers {scaling.workers} need {wanted} GPUs, one each, and there are {gpus}; "
            f"use --scaling.workers {gpus}, --scaling.device cpu, or a larger cluster"
        )
    return True


def check_cpus(scaling: ScalingConfig, cpus: int) -> None:
    """Check that the workers fit.

    Raises:
        ConfigError: they would wait for CPUs for ever.
    """
    needed = scaling.workers * scaling.cpus_per_worker
    if needed > cpus:
        raise ConfigError(
            f"scaling.workers {scaling.workers} x scaling.cpus_per_worker {scaling.cpus_per_worker} = {needed} CPUs, "
            f"and there are {cpus}; use fewer workers, fewer CPUs each, or a larger cluster"
        )


def run_in_process(function: RankFunction, argument: Any, *, gpu: bool, tell: Tell) -> Any:
    """Run one rank in the calling process, under Ray Train's local mode; Ray is not started."""
    trainer = TorchTrainer(
        _rank,
        train_loop_config={"function": function, "argument": argument, "gpu": gpu, "tell": tell},
        scaling_config=ray.train.ScalingConfig(num_workers=0),
    )
    return trainer.fit().return_value


def run_on_workers(
    function: RankFunction, argument: Any, scaling: ScalingConfig, *, gpu: bool, tell: Tell, name: str, storage: str
) -> Any:
    """Run a function on every rank under Ray Train and return the chief's result. Ray must be up.

    Args:
        function: what every rank runs.
        argument: its first argument.
        scaling: workers, CPUs each and failures tolerated.
        gpu: a GPU a worker.
        tell: told, in this process, what the chief tells.
        name: of the run, for Ray's own files.
        storage: path or URI for Ray's own files; the same after a restart of the driver.

    Raises:
        UserError: as a rank raised it.
        ray.train.TrainingFailedError: any other failure that outlasted the retries.
    """
    # On the driver's node, so that it lives as long as the driver.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()
    resources = {"CPU": scaling.cpus_per_worker} | ({"GPU": 1} if gpu else {})
    trainer = TorchTrainer(
        _rank,
        train_loop_config={"function": function, "argument": argument, "gpu": gpu, "tell": Posted(mailbox)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=scaling.workers, use_gpu=gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=name, storage_path=storage, failure_config=FailureConfig(max_failures=scaling.max_failures)
        ),
    )
    # Off the main thread, so that Ctrl-C reaches this one at once and Ray installs no handler of its own.
    outcome: list[Any] = []
    thread = threading.Thread(target=_fit, args=(trainer, outcome), daemon=True)
    thread.start()
    ended = False
    while not ended:
        thread.join(_POLL_SECONDS)
        ended = not thread.is_alive()
        for event in ray.get(mailbox.take.remote()):
            if event["kind"] == "failed":  # a user's mistake stays one when the workers are started again
                raise event["error"]
            tell(event)
    if isinstance(outcome[0], BaseException):
        raise _cause(outcome[0])
    return outcome[0].return_value


class Mailbox:
    """An actor that holds what the chief tells until the driver asks for it."""

    def __init__(self) -> None:
        """Empty."""
        self._events: list[Mapping[str, Any]] = []

    def put(self, event: Mapping[str, Any]) -> None:
        """Keep an event."""
        self._events.append(event)

    def take(self) -> list[Mapping[str, Any]]:
        """All events since the last call."""
        taken, self._events = self._events, []
        return taken


class Posted:
    """A `Tell` that posts to a mailbox and never waits for it."""

    def __init__(self, mailbox: Any) -> None:
        """Keep the actor's handle."""
        self._mailbox = mailbox

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Post an event; only a failure waits until it has arrived, since the worker ends after it."""
        posted = self._mailbox.put.remote(event)
        if event["kind"] == "failed":
            ray.get(posted, timeout=30)


def _fit(trainer: TorchTrainer, outcome: list[Any]) -> None:
    try:
        outcome.append(trainer.fit())
    except BaseException as error:  # handed to the thread that waits
        outcome.append(error)


def _rank(config: dict[str, Any]) -> Any:
    context = ray.train.get_context()
    device = torch.device("cpu")
    if config["gpu"]:
        device = torch.device("cuda", torch.cuda.current_device())
    grouped = dist.is_available() and dist.is_initialized()
    world = World(
        rank=context.get_world_rank() if grouped else 0,
        size=context.get_world_size() if grouped else 1,
        device=device,
    )
    # cuBLAS asks for this in deterministic mode, before its first call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        return config["function"](config["argument"], world, config["tell"] if world.is_chief else _tell_nobody)
    except UserError as error:
        if grouped and not error.transient:  # the same would happen again
            config["tell"]({"kind": "failed", "error": error})
        raise


def _tell_nobody(event: Mapping[str, Any]) -> None:
    """The `tell` of all ranks but the chief."""


def _cause(error: BaseException) -> BaseException:
    """What the user can act on behind a failure of the worker group, or the failure itself."""
    for failure in getattr(error, "worker_failures", {}).values():
        for cause in (failure, getattr(failure, "cause", None), failure.__cause__):
            if isinstance(cause, UserError):
                return cause
    return error
