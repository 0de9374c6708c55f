"""Everything that hemodist uses of Ray and KubeRay without a promise that the next version has it, in one place.

All of it is as in Ray 2.60 and KubeRay 1.7. Each function says what is lost where a newer version has dropped the name;
`tests/hemodist/cluster/test_ray_internals.py` calls every one on a real Ray, so that an upgrade fails there first.
Ray is imported inside the functions: some variables must be set before that, and `drain` starts faster without it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

VARIABLES: Mapping[str, str] = {
    # Workers use the interpreter of the driver's environment, or of the image on a cluster: `uv run` has installed it,
    # and Ray's own handling would upload the tree and install everything again for each worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",  # a clinic's machines report to nobody
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # otherwise print() shows twice
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a task without a GPU keeps CUDA_VISIBLE_DEVICES as it is
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # seconds until a dead worker is noticed
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",  # seconds until the notice of a node's end is noticed
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",  # workers that hang in a collective are killed after so long
}
"""Ray's variables that hemodist sets unless the user has. A name that Ray drops is ignored in silence."""

ON_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's variable that, set to 0, gives a node the address 127.0.0.1, so that its processes listen nowhere else."""

START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
"""Ray Train's variable: seconds until it gives up waiting for a group of workers and asks for another number."""

KUBERAY_START = "KUBERAY_GEN_RAY_START_CMD"
"""KubeRay's variable in every pod: the command that has started Ray there."""


_NODE_POLL_SECONDS = 0.5


def set_variables() -> None:
    """Set `VARIABLES` for this process and what it starts. Call it before Ray is imported, which reads some of them."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def patient_start(seconds: float) -> Iterator[None]:
    """In a `with` block, `ray.init` waits that much longer for the node that it starts to report.

    Ray gives up after 30 s, which is a constant of a function. Without it, Ray does not come up on a busy machine.
    """
    from ray._private import services

    asked = services.get_node

    def get_node(*arguments: Any) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return asked(*arguments)
            except RuntimeError:  # the node has not registered
                if time.monotonic() > deadline:
                    raise
            time.sleep(_NODE_POLL_SECONDS)

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = asked


def free_resources() -> dict[str, Mapping[str, float]]:
    """What nobody has reserved at this moment: resource to amount, by hexadecimal id of the node.

    Without it, a run cannot tell a full cluster from a free one, and asks Ray for workers that never start.
    """
    from ray._private.state import available_resources_per_node

    free: dict[str, Mapping[str, float]] = available_resources_per_node()
    return free


def leaving_nodes() -> Collection[str]:
    """Hexadecimal ids of the nodes that are about to be taken away.

    Without it, a run would be started again on a node that is just leaving.
    """
    from ray._private.state import state

    return set(state.get_draining_nodes())


def largest_cluster() -> Mapping[str, int] | None:
    """The resources that the joined cluster may grow to, by its autoscaler's configuration; None where unknown.

    Without it, a run on a cluster that starts with its head alone is refused for lack of CPUs or GPUs.
    """
    from ray._private.state import state

    most: Mapping[str, int] | None = state.get_max_resources_from_cluster_config()
    return most


def kuberay_start_command() -> str:
    """The command by which KubeRay has started Ray in this pod; empty elsewhere.

    Without it, a cluster of KubeRay looks like one that somebody has started by hand.
    """
    return os.environ.get(KUBERAY_START, "")


def made_by_autoscaler(node: Mapping[str, Any]) -> bool:
    """Whether `ray up` or KubeRay has made a node, which then carries the name of its group.

    Without it, a cluster of `ray up` counts as one that never grows.

    Args:
        node: an element of `ray.nodes()`.
    """
    return "ray.io/node-group" in node.get("Labels", {})


def pass_to_controller(variable: str) -> None:
    """Have Ray Train give a variable of the driver to its controller as well.

    The controller is an actor, whose environment on a joined cluster is the node's; Ray hands on only what stands in
    a set of its own. Without it, the controller takes the default: slower with TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S,
    where a lost worker then costs 25 s more, and not wrong.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

        ENV_VARS_TO_PROPAGATE.add(variable)


def is_dead_worker(error: Exception) -> bool:
    """Whether what Ray Train says of a worker means that its process is gone, and not that its function has raised.

    Without it, the user is told Ray's own text instead of "worker 1 is gone".
    """
    return hasattr(error, "health_check_failure")


def is_training_worker(command: Sequence[str]) -> bool:
    """Whether a process is one of Ray Train's workers, by its command line, which Ray writes.

    Without it, a node that is about to go does not wait until its workers have saved.
    """
    return " ".join(command).startswith("ray::RayTrainWorker")


def raylet_flags(command: Sequence[str]) -> tuple[str, str] | None:
    """What Ray's own process of a node, the raylet, was started with; None for any other process.

    Without it, a pod cannot say which node it is, and its node goes without notice.

    Args:
        command: the command line of a process.

    Returns:
        The node's hexadecimal id, and the address of the cluster's control service (GCS).

    >>> raylet_flags(["/opt/ray/raylet", "--node_id=ab12", "--gcs-address=10.0.0.1:6379"])
    ('ab12', '10.0.0.1:6379')
    >>> raylet_flags(["python", "train.py"])
    """
    if not command or Path(command[0]).name != "raylet":
        return None
    flags = dict(each.removeprefix("--").split("=", 1) for each in command[1:] if "=" in each)
    return flags["node_id"], flags["gcs-address"]


def announce_end(node: str, gcs: str, seconds: float, why: str) -> str:
    """Tell a cluster that a node will be taken away, as clouds do with spot machines. Needs no `ray.init`.

    Without it, a run learns of a node's end only by the loss of its workers, and makes the steps since the last
    checkpoint again.

    Args:
        node: its hexadecimal id.
        gcs: address of the cluster's control service.
        seconds: until the node is taken away.
        why: for Ray's logs.

    Returns:
        Why the cluster does not accept it; empty where it does. One that cannot be reached is given up after 40 s, or
        after `seconds` where it accepts the connection and does not answer.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason
    from ray.exceptions import RayError

    deadline = int((time.time() + seconds) * 1000)
    reason = DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
    try:
        accepted, refusal = GcsClient(address=gcs).drain_node(node, reason, why, deadline, timeout=seconds)
    except (RayError, RuntimeError) as error:
        return str(error) or type(error).__name__
    return "" if accepted else str(refusal) or "no reason given"


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """In a `with` block, a cluster that this process starts has its head on 127.0.0.1 only.

    The variable is for the processes that Ray starts. This process may have read it before, when it imported Ray, so
    what it remembers is changed by hand. Without it, the benches' clusters use the machine's outer address.

    Ray 2.60 pins 127.0.0.1 alone: a further node with the address 127.0.0.2 listens on all interfaces.
    """
    from ray._private import ray_constants

    before = os.environ.get(ON_LOOPBACK), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[ON_LOOPBACK], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        os.environ.pop(ON_LOOPBACK)
        if before[0] is not None:
            os.environ[ON_LOOPBACK] = before[0]
        ray_constants.ENABLE_RAY_CLUSTER = before[1]


def raylet_pid(node: Any) -> int:
    """Process id of the raylet of a node that `ray.cluster_utils.Cluster` has started in this process.

    Without it, benches and fault tests cannot choose the node to kill.
    """
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid
