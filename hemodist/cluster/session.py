"""Starts Ray or joins a cluster, says how large it is, runs tasks on it, and leaves no process behind.

A job joins the cluster that `RAY_ADDRESS` names (set inside `ray job submit`), and otherwise starts one of its own on
this machine, which listens on the loopback interface only and ends with the job.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hemodist.cluster import ray_internals

ray_internals.set_variables()  # before Ray is imported

import psutil  # noqa: E402
import ray  # noqa: E402
from ray.exceptions import RayTaskError  # noqa: E402

from hemodist.errors import UserError  # noqa: E402
from hemodist.job import terminated  # noqa: E402

OBJECT_STORE_BYTES = 200_000_000
"""Of a cluster on this machine: tasks and results are small, the data goes through files."""

START_SECONDS = 90.0
"""What a start of Ray is waited for beyond Ray's own 30 s; a busy machine may need more than those."""

ROUNDS_OF_ENDING = 3
"""Each ends the processes that are there when it begins: a raylet starts its agents while it is being ended itself."""

_PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): orphaned descendants become this process's children, so that it can end them."""

T = TypeVar("T")
R = TypeVar("R")


class RayNotUpError(UserError):
    """Ray does not come up, or the cluster cannot be joined."""


@dataclass(frozen=True)
class ClusterInfo:
    """How large a cluster is, and how much larger it may become.

    Attributes:
        cpus: CPUs of the cluster.
        gpus: GPUs of the cluster.
        joined: True where the cluster was there before, False where this job has started it.
        cpus_to_come: how many more CPUs may join; infinite where nobody knows.
        gpus_to_come: how many more GPUs may join, likewise.
    """

    cpus: int
    gpus: int
    joined: bool
    cpus_to_come: float = 0
    gpus_to_come: float = 0


@contextlib.contextmanager
def cluster(cpus: int | None = None) -> Iterator[ClusterInfo]:
    """Ray for the length of a `with` block.

    Args:
        cpus: logical CPUs of a cluster on this machine, or None for as many as there are; a joined cluster has its own.

    Raises:
        RayNotUpError: Ray did not come up, twice.
    """
    joined = bool(os.environ.get("RAY_ADDRESS"))
    with no_process_left_behind():
        try:
            _start(cpus, joined=joined)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminated)  # Ray has put a handler in its place that aborts
            yield look(joined=joined)
        finally:
            with _interrupts_held_back():
                ray.shutdown()


def _start(cpus: int | None, *, joined: bool) -> None:
    """Start Ray or join a cluster; once more where that fails, since a busy machine may have been too slow."""
    if not joined:
        os.environ.setdefault(ray_internals.ON_LOOPBACK, "0")
    before = _descendants()
    for last in (False, True):
        try:
            if joined:
                ray.init(address="auto", log_to_driver=True)
                return
            with ray_internals.patient_start(START_SECONDS):
                ray.init(
                    address="local",  # never a cluster that a stale file names
                    num_cpus=cpus,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            return
        except Exception as error:  # whatever Ray raises: plain exceptions, of the network, of the operating system
            ray.shutdown()
            _end_others(before)
            if last:
                raise RayNotUpError(_not_up(error, joined=joined)) from error


def _not_up(error: Exception, *, joined: bool) -> str:
    """What is said of Ray that did not come up, in one line."""
    why = (str(error).strip() or type(error).__name__).splitlines()[0]
    if joined:
        return (
            f"the Ray cluster that RAY_ADDRESS names, {os.environ['RAY_ADDRESS']}, cannot be joined ({why}); start it, "
            "or unset RAY_ADDRESS to compute on this machine"
        )
    return (
        f"Ray did not start on this machine, tried twice ({why}); wait until the machine is less busy, see that memory "
        "and the disk of temporary files are not full (Ray logs into session_latest/logs there), or use 0 workers"
    )


def look(*, joined: bool) -> ClusterInfo:
    """How large the cluster is at this moment.

    Args:
        joined: whether the cluster was there before this job, so that it may grow.
    """
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if not joined:
        return ClusterInfo(cpus, gpus, joined)
    more_cpus, more_gpus = to_come({"CPU": cpus, "GPU": gpus}, ray_internals.largest_cluster())
    return ClusterInfo(cpus, gpus, joined, more_cpus, more_gpus)


def to_come(now: Mapping[str, int], most: Mapping[str, int] | None) -> tuple[float, float]:
    """How many CPUs and GPUs may still join a cluster.

    Args:
        now: CPUs and GPUs that are there.
        most: what the autoscaler's configuration allows in all; None where Ray does not know it.

    Returns:
        More CPUs and more GPUs. Infinite means unknown: an autoscaler that does not say how far it goes, or a cluster
        without anything, whose nodes have not registered yet.
    """
    if most:
        return max(0, most.get("CPU", 0) - now["CPU"]), max(0, most.get("GPU", 0) - now["GPU"])
    if not any(now.values()) or _grows_by_itself():
        return math.inf, math.inf
    return 0, 0


def fills_up(info: ClusterInfo) -> bool:
    """Whether a cluster of fixed size may still be filling up, as after KubeRay has started a lost head again."""
    return info.joined and bool(ray_internals.kuberay_start_command()) and not _grows_by_itself()


def _grows_by_itself() -> bool:
    """Whether an autoscaler may add nodes to the joined cluster; Ray does not always say how many."""
    started_by_kuberay = ray_internals.kuberay_start_command()
    if started_by_kuberay:  # KubeRay's autoscaler has a container of its own, and replaces Ray's monitor in the head
        return "--no-monitor" in started_by_kuberay
    return any(ray_internals.made_by_autoscaler(node) for node in ray.nodes() if node["Alive"])


def map_tasks(
    function: Callable[[T], R],
    items: Sequence[T],
    *,
    in_flight: int | Callable[[], int],
    num_cpus: float = 1,
    memory: int | None = None,
) -> Iterator[tuple[int, R]]:
    """Apply `function` to each item as a Ray task; results come as they finish.

    Args:
        function: of a module that the workers can import, not of a script.
        items: small arguments.
        in_flight: most tasks that are submitted and not finished; a function is asked again before each is submitted.
        num_cpus: CPUs that a task reserves.
        memory: bytes of memory that a task reserves, or None.

    Yields:
        (index of the item, result). A task whose node is lost is run again; one that raises ends the iteration.

    Raises:
        UserError: a task has raised it; as itself, without the text that Ray wraps around it. Any other error of a
            task comes as Ray gives it, with the traceback of the worker.
    """
    task = ray.remote(num_cpus=num_cpus, memory=memory, max_retries=5)(function)
    pending: dict[ray.ObjectRef, int] = {}
    remaining = iter(enumerate(items))
    while True:
        most = in_flight() if callable(in_flight) else in_flight
        while len(pending) < most and (following := next(remaining, None)) is not None:
            index, item = following
            pending[task.remote(item)] = index
        if not pending:
            return
        (finished,), _ = ray.wait(list(pending), num_returns=1)
        try:
            result = ray.get(finished)
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        yield pending.pop(finished), result


def cpus_now() -> int:
    """CPUs of the cluster at this moment: nodes come and go."""
    return int(ray.cluster_resources().get("CPU", 0))


def largest_memory() -> int | None:
    """The most memory, in bytes, that one node with CPUs offers to tasks; None where there is no such node yet."""
    given = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max((int(one.get("memory", 0)) for one in given if one.get("CPU")), default=None)


@contextlib.contextmanager
def no_process_left_behind() -> Iterator[None]:
    """On leaving a `with` block, end all descendants of this process, orphans included. SIGTERM counts as Ctrl-C."""
    with contextlib.suppress(OSError):  # Linux only; elsewhere orphans are Ray's own to clean up
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = _descendants()
    on_main_thread = threading.current_thread() is threading.main_thread()
    if on_main_thread:
        previous = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        with _interrupts_held_back():
            for _ in range(ROUNDS_OF_ENDING):
                _end_others(before)
        if on_main_thread:
            signal.signal(signal.SIGTERM, previous)


def _descendants() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def _end_others(kept: set[int]) -> None:
    """End all descendants but those with these process ids."""
    processes = [process for process in psutil.Process().children(recursive=True) if process.pid not in kept]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=5)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM in a `with` block that cleans up: a second one would leave something behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
