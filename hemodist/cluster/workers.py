"""Ranks under Ray Train: one function on every worker, or in the calling process, started again until it is done."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig
from ray.train.constants import TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hemodist.cluster.failures import FailureReporter, Failures
from hemodist.cluster.mailbox import Mailbox, Posted
from hemodist.cluster.ownership import claim
from hemodist.cluster.prometheus import Observed
from hemodist.cluster.session import ClusterInfo
from hemodist.cluster.worker_slots import Growth, Waiting, most_now
from hemodist.config.run import ScalingConfig
from hemodist.errors import ConfigError, UserError
from hemodist.events import AttemptStarted, Event, Failed, Note, Tell
from hemodist.world import LeavingError, World

logging.getLogger("ray.train").setLevel(logging.WARNING)  # the terminal says what happens

# Ray's controller reads it in an actor of its own, whose environment on a joined cluster is the node's and not this
# process's; Ray hands on only what stands in this set. Without it, losses cost 25 s more where survivors hang.
with contextlib.suppress(ImportError, AttributeError):  # another Ray's own names: slower, and not wrong
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    ENV_VARS_TO_PROPAGATE.add(TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S)

_POLL_SECONDS = 0.3
"""Between two looks into the mailbox; the terminal needs no more."""

RankFunction = Callable[[Any, World, Tell], Any]
"""What every rank runs: (argument, world, tell) -> result; defined in the library, so that workers can import it."""


@dataclass(frozen=True)
class Left:
    """What the ranks return when they have left before the end; another attempt goes on.

    Attributes:
        step: the last one, which is saved.
        reason: why they have left.
    """

    step: int
    reason: str


def check_room(scaling: ScalingConfig, info: ClusterInfo) -> bool:
    """Check that the workers fit into a cluster, as it is or as it may become; returns whether they use GPUs.

    Raises:
        ConfigError: they would wait for ever.
    """
    check_cpus(scaling, info.cpus, info.cpus_to_come)
    return uses_gpu(scaling, info.gpus, info.gpus_to_come)


def waits_for_nodes(scaling: ScalingConfig, info: ClusterInfo, *, gpu: bool) -> str:
    """What to tell the user where the cluster has no room yet; empty where it has."""
    cpus, gpus = scaling.fewest * scaling.cpus_per_worker, scaling.fewest if gpu else 0
    if cpus <= info.cpus and gpus <= info.gpus:
        return ""
    needed = f"{cpus} CPUs" + (f" and {gpus} GPUs" if gpu else "")
    return f"The run needs {needed}, the cluster has {info.cpus} and {info.gpus} so far; waiting until a node joins."


def uses_gpu(scaling: ScalingConfig, gpus: int, to_come: float = 0) -> bool:
    """Whether the ranks compute on GPUs.

    Args:
        scaling: `device`, `workers` and `min_workers`.
        gpus: how many there are.
        to_come: how many more may join; infinite where nobody knows.

    Raises:
        ConfigError: GPUs are asked for that are not there, or nobody can know whether there will be some.
    """
    if scaling.device == "cpu":
        return False
    if scaling.device == "auto" and not gpus:
        if not to_come:
            return False
        if math.isinf(to_come):  # a guess would train on the head's CPUs for days, or ask for GPUs that never come
            raise ConfigError(
                "scaling.device auto: the cluster has no GPU yet, and does not say whether nodes with GPUs may join; "
                "use --scaling.device cuda or --scaling.device cpu"
            )
    most = gpus + to_come
    if most < scaling.fewest:
        remedy = f"use --scaling.workers {most}, --scaling.device cpu, or a larger cluster"
        if not most:
            remedy = "use --scaling.device cpu, or see what `nvidia-smi` and jobs/doctor.py say of the driver"
        raise ConfigError(f"{_asked(scaling)} need {scaling.fewest} GPUs, one each, and {_there(most, gpus)}; {remedy}")
    return True


def check_cpus(scaling: ScalingConfig, cpus: int, to_come: float = 0) -> None:
    """Check that the workers fit, or with `min_workers` at least so many.

    Args:
        scaling: `workers`, `min_workers` and `cpus_per_worker`.
        cpus: how many there are.
        to_come: how many more may join.

    Raises:
        ConfigError: they would wait for CPUs for ever.
    """
    needed = scaling.fewest * scaling.cpus_per_worker
    if needed > cpus + to_come:
        raise ConfigError(
            f"{_asked(scaling)} x scaling.cpus_per_worker {scaling.cpus_per_worker} = {needed} CPUs, "
            f"and {_there(cpus + to_come, cpus)}; use fewer workers, fewer CPUs each, or a larger cluster"
        )


def _there(most: float, now: int) -> str:
    return f"there are {most}" if most == now else f"the cluster grows to {most}"


def _asked(scaling: ScalingConfig) -> str:
    if scaling.fewest < scaling.workers:
        return f"scaling.min_workers {scaling.fewest}"
    return f"scaling.workers {scaling.workers}"


def run_in_process(function: RankFunction, argument: Any, *, gpu: bool, tell: Tell, folder: str) -> Any:
    """Run one rank in the calling process, under Ray Train's local mode; Ray is not started.

    Args:
        function: what the rank runs.
        argument: its first argument.
        gpu: compute on a GPU.
        tell: told what happens.
        folder: path or URI that the rank writes into, which is this driver's from now on.
    """
    config = {"function": function, "argument": argument, "gpu": gpu, "tell": tell, "claimed": claim(folder)}
    trainer = TorchTrainer(
        _rank,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=0),
    )
    return trainer.fit().return_value


def run_on_workers(
    function: RankFunction, argument: Any, scaling: ScalingConfig, *, gpu: bool, tell: Tell, name: str, folder: str
) -> Any:
    """Run a function on every rank under Ray Train and return rank 0's result. Ray must be up.

    Lost workers are started again, on other nodes and with fewer or more of them where `scaling` allows it, until the
    function is done or gets no further.

    Args:
        function: what every rank runs.
        argument: its first argument.
        scaling: workers, CPUs each and failures tolerated.
        gpu: a GPU a worker.
        tell: told, in this process, what rank 0 tells.
        name: of the run, for Ray's own files.
        folder: path or URI that rank 0 writes into, which is this driver's from now on; Ray's own files are in its
            folder `ray`. The same after a restart of the driver.

    Raises:
        UserError: as a rank raised it, or a rank's node sees another folder, or another driver has taken it, or the
            workers were lost too often.
        ray.train.TrainingFailedError: Ray itself could not go on.
    """
    claimed = claim(folder)  # once, so that a later driver's claim outlives this one's restarts of workers
    # On the driver's node, so that it lives as long as the driver.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()
    # How long Ray waits for the places of all workers before it counts again how many there are.
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(scaling.wait_seconds)
    resources = {"CPU": scaling.cpus_per_worker} | ({"GPU": 1} if gpu else {})
    losses, waiting, growth = Failures(scaling.max_failures), Waiting(scaling, resources), Growth(scaling, resources)
    try:
        while True:
            most = most_now(scaling, resources)
            trainer = TorchTrainer(
                _rank,
                train_loop_config={
                    "function": function,
                    "argument": argument,
                    "gpu": gpu,
                    "tell": Posted(mailbox),
                    "claimed": claimed,
                },
                scaling_config=ray.train.ScalingConfig(
                    num_workers=(scaling.fewest, most) if scaling.fewest < most else most,
                    use_gpu=gpu,
                    resources_per_worker=resources,
                    # Ray kills the workers to start more of them; `growth` asks them to save and leave instead.
                    elastic_resize_monitor_interval_s=math.inf,
                ),
                # Ray starts lost workers again without end; `losses` counts, and knows which attempts got further.
                run_config=RunConfig(
                    name=name,
                    storage_path=f"{claimed.uri}/ray",
                    failure_config=FailureConfig(max_failures=-1),
                    callbacks=[FailureReporter(mailbox)],
                ),
            )
            result = _fit(trainer, mailbox, losses, waiting, growth, tell)
            if not isinstance(result, Left):
                return result
            tell(Note(f"{result.reason}: step {result.step} is saved, and the run starts again"))
            ray.get(mailbox.ask_to_leave.remote(False))
            waiting.begin()
    except BaseException:
        with contextlib.suppress(ray.exceptions.RayError):  # already gone
            mailbox.close.remote()  # Ray would go on to start workers
        raise


def _fit(trainer: TorchTrainer, mailbox: Any, losses: Failures, waiting: Waiting, growth: Growth, tell: Tell) -> Any:
    """Run Ray Train and pass on what is told meanwhile; returns rank 0's result."""
    outcome: list[Any] = []

    def fit() -> None:
        try:
            outcome.append(trainer.fit())
        except BaseException as error:  # handed to the thread that waits
            outcome.append(error)

    # Off the main thread, so that Ctrl-C reaches this one at once and Ray installs no handler of its own.
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    ended = False
    while not ended:
        thread.join(_POLL_SECONDS)
        ended = not thread.is_alive()
        events: list[Event] = ray.get(mailbox.take.remote())
        for event in events:
            if isinstance(event, Failed):  # a user's mistake stays one when the workers are started again
                raise event.error
            for note in (losses.hear(event), waiting.hear(event)):
                if note:
                    tell(Note(note))
            growth.hear(event)
            tell(event)
        if note := waiting.look():
            tell(Note(note))
        if growth.wanted():
            mailbox.ask_to_leave.remote(True)
    if isinstance(outcome[0], BaseException):
        raise _cause(outcome[0])
    return outcome[0].return_value


def _rank(config: dict[str, Any]) -> Any:
    context = ray.train.get_context()
    grouped = dist.is_available() and dist.is_initialized()
    tell = config["tell"]
    if grouped:
        if tell.is_closed():
            return None
        if context.get_world_rank() == 0:  # first of all, so that every loss is one of an attempt
            tell(AttemptStarted(context.get_world_size()))
    device = torch.device("cuda", torch.cuda.current_device()) if config["gpu"] else torch.device("cpu")
    notice = _Notice(tell, is_rank_0=context.get_world_rank() == 0) if grouped else None
    world = World(
        rank=context.get_world_rank() if grouped else 0,
        size=context.get_world_size() if grouped else 1,
        device=device,
        must_leave=notice,
        check_owner=config["claimed"].check,
    )
    # cuBLAS asks for this in deterministic mode, before its first call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        if grouped:
            config["claimed"].check_all_see_it(world)
        heard: Tell = tell if world.is_rank_0 else _tell_nobody
        if ray.is_initialized():  # Prometheus hears every rank
            heard = Observed(heard, context.get_experiment_name(), world.rank)
        return config["function"](config["argument"], world, heard)
    except LeavingError as leaving:
        return Left(leaving.step, notice.reason if notice else "")
    except UserError as error:
        if grouped and not error.transient:  # the same would happen again
            tell(Failed(error))
        raise
    except Exception as error:  # raised again, as it is
        error.add_note(traceback.format_exc())  # a note survives the way to the driver
        raise


class _Notice:
    """Whether a node is about to be taken away or the driver asks the ranks to leave; rank 0's answer counts."""

    def __init__(self, tell: Posted, *, is_rank_0: bool) -> None:
        self._tell, self._is_rank_0 = tell, is_rank_0
        self.reason = ""

    def __call__(self) -> bool:
        if ray.train.get_preemption_info() is not None:
            self.reason = "a node is about to be taken away"
        elif self._is_rank_0 and self._tell.must_leave():
            self.reason = "there is room for more workers"
        return bool(self.reason)


def _tell_nobody(event: Event) -> None:
    """The `tell` of all ranks but rank 0."""


def _cause(error: BaseException) -> BaseException:
    """What the user can act on behind a failure of the worker group, or the failure itself."""
    for failure in getattr(error, "worker_failures", {}).values():
        for cause in (failure, getattr(failure, "cause", None), failure.__cause__):
            if isinstance(cause, UserError):
                return cause
    return error
