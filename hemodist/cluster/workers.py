"""Starts a function on every rank under Ray Train, and starts lost workers again until the function is done."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.train import FailureConfig, RunConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hemodist.cluster.failures import FailureReporter, Failures
from hemodist.cluster.mailbox import Mailbox, Posted
from hemodist.cluster.ownership import claim
from hemodist.cluster.rank import Left, RankFunction, run_rank
from hemodist.cluster.ray_internals import START_TIMEOUT, pass_to_controller
from hemodist.cluster.worker_slots import GrowthMonitor, WaitingForSlots, worker_resources, workers_to_ask_for
from hemodist.config.operation import ScalingConfig
from hemodist.errors import UserError
from hemodist.events import Event, Failed, Note, Tell

logging.getLogger("ray.train").setLevel(logging.WARNING)  # the terminal says what happens

pass_to_controller("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S")

_POLL_SECONDS = 0.3
"""Between two looks into the mailbox; the terminal needs no more."""


COLLECTIVE_SECONDS = 600
"""A rank that hangs ends the attempt after so long; Ray's default is 30 minutes. Longer than anything that the others
wait for: rank 0 fetching weights or the best checkpoint, the first shards."""


def worker_variables(cpus: int) -> dict[str, str]:
    """Environment of every worker; what the driver's has goes before.

    Args:
        cpus: that a worker reserves; Ray sets OMP_NUM_THREADS to as many.
    """
    wanted = {
        # Processes whose collective fails end at once (SkipCleanUp), and Ray starts the group again. Ray would set 1
        # (TearDown), which aborts NCCL's communicators first, and an abort may itself hang.
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
        # torch.compile starts up to 32 compilers a rank.
        "TORCHINDUCTOR_COMPILE_THREADS": str(cpus),
    }
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


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
        run_rank,
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
    # How long Ray waits for the slots of all workers before it counts again how many there are.
    os.environ[START_TIMEOUT] = str(scaling.wait_seconds)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    resources = worker_resources(scaling, nodes, gpu=gpu)
    failures = Failures(scaling.max_failures)
    waiting, growth = WaitingForSlots(scaling, resources), GrowthMonitor(scaling, resources)
    try:
        while True:
            most = workers_to_ask_for(scaling, resources)
            trainer = TorchTrainer(
                run_rank,
                train_loop_config={
                    "function": function,
                    "argument": argument,
                    "gpu": gpu,
                    "tell": Posted(mailbox),
                    "claimed": claimed,
                },
                torch_config=TorchConfig(timeout_s=COLLECTIVE_SECONDS),
                scaling_config=ray.train.ScalingConfig(
                    num_workers=(scaling.fewest, most) if scaling.fewest < most else most,
                    use_gpu=gpu,
                    resources_per_worker=resources,
                    # Ray kills the workers to start more of them; `growth` asks them to save and leave instead.
                    elastic_resize_monitor_interval_s=math.inf,
                ),
                # Ray starts lost workers again without end; `failures` counts, and knows which attempts got further.
                run_config=RunConfig(
                    name=name,
                    storage_path=f"{claimed.uri}/ray",
                    failure_config=FailureConfig(max_failures=-1),
                    callbacks=[FailureReporter(mailbox, scaling.fewest, resources)],
                    worker_runtime_env={"env_vars": worker_variables(resources["CPU"])},
                ),
            )
            result = _fit(trainer, mailbox, failures, waiting, growth, tell)
            if not isinstance(result, Left):
                return result
            tell(Note(f"{result.reason}: step {result.step} is saved, and the run starts again"))
            ray.get(mailbox.ask_to_leave.remote(False))
            waiting.begin()
    except BaseException:
        with contextlib.suppress(ray.exceptions.RayError):  # already gone
            mailbox.close.remote()  # Ray would go on to start workers
        raise


def _fit(
    trainer: TorchTrainer, mailbox: Any, failures: Failures, waiting: WaitingForSlots, growth: GrowthMonitor, tell: Tell
) -> Any:
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
            for note in (failures.hear(event), waiting.hear(event)):
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


def _cause(error: BaseException) -> BaseException:
    """What the user can act on behind a failure of the worker group, or the failure itself."""
    for failure in getattr(error, "worker_failures", {}).values():
        for cause in (failure, getattr(failure, "cause", None), failure.__cause__):
            if isinstance(cause, UserError):
                return cause
    return error
