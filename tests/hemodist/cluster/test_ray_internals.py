"""Each name of Ray that the next version may drop, used on a small real Ray: an upgrade that breaks one fails here."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import psutil
import pytest

from hemodist.cluster import drain, ray_internals
from hemodist.cluster.failures import WorkersLostError
from hemodist.cluster.session import look
from hemodist.cluster.workers import run_on_workers
from hemodist.config.operation import ScalingConfig
from hemodist.events import Tell
from hemodist.world import World

import ray  # isort: skip - after what sets its variables
from ray._private import services  # isort: skip
from ray.cluster_utils import Cluster  # isort: skip


@pytest.fixture
def node(cluster: Cluster) -> drain.Raylet:
    """The node, as its processes tell."""
    (found,) = (raylet for raylet in drain.raylets() if raylet.pid == ray_internals.raylet_pid(cluster.head_node))
    return found


def test_ray_knows_each_variable_that_is_set():
    installed = Path(ray.__file__).parent
    wanted = {*ray_internals.VARIABLES, ray_internals.ON_LOOPBACK, ray_internals.START_TIMEOUT}
    quoted = re.compile("\"([A-Z_]+)\"|'([A-Z_]+)'|^ *([A-Z_]+) *=", re.MULTILINE)
    for folder in ("_private", "_common", "train"):
        for file in (installed / folder).rglob("*.py"):
            wanted -= {name for match in quoted.findall(file.read_text()) for name in match}
    assert not wanted


def test_every_listener_of_the_cluster_is_on_loopback(cluster):
    family = [process for process in psutil.Process().children(recursive=True) if process.is_running()]
    listening = [one for process in family for one in process.net_connections("tcp") if one.status == "LISTEN"]
    assert listening
    assert {one.laddr.ip.removeprefix("::ffff:").split(".")[0] for one in listening} <= {"127"}


def test_the_processes_of_a_node_tell_its_id_and_the_address_of_the_cluster(cluster, node):
    assert node.node == cluster.head_node.node_id
    assert node.gcs == cluster.gcs_address
    assert node.node in {one["NodeID"] for one in ray.nodes()}


def test_what_is_free_is_known_by_node(node):
    while ray_internals.free_resources()[node.node].get("CPU", 0) != 1:
        time.sleep(0.1)
    assert set(ray_internals.free_resources()) == {one["NodeID"] for one in ray.nodes() if one["Alive"]}


def test_a_cluster_that_nobody_manages_does_not_grow(cluster):
    assert ray_internals.largest_cluster() is None
    assert ray_internals.kuberay_start_command() == ""
    assert not any(ray_internals.made_by_autoscaler(one) for one in ray.nodes())
    assert look(joined=True).cpus_to_come == 0


def test_an_autoscalers_configuration_says_how_far_a_cluster_grows(cluster):
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig

    group = NodeGroupConfig(resources={"CPU": 4, "GPU": 1}, max_count=3, name="workers")
    client = GcsClient(address=cluster.gcs_address)
    client.report_cluster_config(ClusterConfig(node_group_configs=[group]).SerializeToString())
    try:
        assert ray_internals.largest_cluster() == {"CPU": 12, "GPU": 3}
        assert look(joined=True).gpus_to_come == 3
    finally:
        client.report_cluster_config(ClusterConfig().SerializeToString())


def test_the_variables_of_a_driver_reach_rays_controller_on_any_cluster(monkeypatch):
    from ray.train.v2._internal.constants import get_env_vars_to_propagate

    handed_on = {name for name in ray_internals.VARIABLES if "TRAIN" in name} | {ray_internals.START_TIMEOUT}
    for name in handed_on | {"TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", "HEMODIST_TEST"}:
        monkeypatch.setenv(name, "7")
    ray_internals.pass_to_controller("HEMODIST_TEST")
    # What is set in the environment of the controller's actor; hemodist.cluster.workers has added torch's timeout.
    given = get_env_vars_to_propagate()
    assert {name: given.get(name) for name in handed_on} == dict.fromkeys(handed_on, "7")
    assert given["TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S"] == given["HEMODIST_TEST"] == "7"


def died(_: None, world: World, tell: Tell) -> None:
    """A rank whose process is known as a training worker's, and ends without a word."""
    assert ray_internals.is_training_worker(psutil.Process().cmdline())
    os._exit(1)


def test_a_worker_that_dies_is_told_from_one_that_raises(node, tmp_path):
    scaling = ScalingConfig(workers=1, device="cpu", max_failures=0)
    with pytest.raises(WorkersLostError, match="worker 0 is gone"):
        run_on_workers(died, None, scaling, gpu=False, tell=lambda _: None, name="x", folder=str(tmp_path))
    assert not ray_internals.is_training_worker(psutil.Process().cmdline())
    assert not ray_internals.is_dead_worker(ValueError())
    assert drain.workers(node) == []


def test_a_node_whose_end_is_announced_counts_as_leaving(node):  # the last one, since the node takes no work after it
    assert node.node not in ray_internals.leaving_nodes()
    drain.drain(node, seconds=600)
    while node.node not in ray_internals.leaving_nodes():
        time.sleep(0.1)


def test_a_node_that_reports_late_is_waited_for_beyond_rays_own_limit(monkeypatch):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(ray_internals.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(ray_internals.time, "sleep", lambda seconds: None)
    asked = []

    def get_node(gcs, node):
        asked.append(node)
        if len(asked) < 4:
            raise RuntimeError("not yet")
        return {"labels": {}}

    monkeypatch.setattr(services, "get_node", get_node)
    with ray_internals.patient_start(90):
        assert services.get_node("gcs", "ab") == {"labels": {}}
    assert services.get_node is get_node  # as it was
    assert len(asked) == 4
    asked.clear()
    with ray_internals.patient_start(30), pytest.raises(RuntimeError, match="not yet"):
        services.get_node("gcs", "ab")
    assert len(asked) == 2
