"""Three nodes, data set and checkpoints on an object store; one node is killed, one is drained: nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hemodist.cluster.ray_internals import is_training_worker
from hemodist.config.run import Run
from hemodist.models.checkpoints import open_checkpoint
from hemodist.storage.store import Store
from tests.support.dataset import make_dataset
from tests.support.fault_runs import assert_no_step_is_lost_or_repeated
from tests.support.ray_head import Cluster, copy_of_the_tree, ray_head
from tests.support.s3 import ENVIRONMENT, bucket_at, s3_process
from tests.system.test_submit import follow

EPOCHS = 40
HEAD = "127.0.0.1"


@pytest.fixture
def bucket() -> Iterator[str]:
    """A bucket of an S3 server that is a process of its own, on loopback."""
    with s3_process() as (host, port), bucket_at(f"http://{host}:{port}", "cluster") as uri:
        yield uri


def busy_node(cluster: Cluster) -> str:
    """The address of a node beside the head that has a training worker."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for address, node in cluster.nodes.items():
            if address != HEAD and node.poll() is None and has_worker(node.pid):
                return address
        time.sleep(0.2)
    raise AssertionError("no training worker runs beside the head")


def has_worker(pid: int) -> bool:
    """Whether a training worker runs on the node that came out of a process."""
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if is_training_worker(process.cmdline()):
                return True
    return False


def kill_node(cluster: Cluster, address: str) -> None:
    """End everything of a node at once, as when the power goes."""
    node = cluster.nodes.pop(address)
    everything = [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]
    for process in everything:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    node.wait(timeout=20)
    psutil.wait_procs(everything, timeout=20)


def drain_node(cluster: Cluster, address: str) -> None:
    """What a pod's `preStop` runs; then the pod ends."""
    (raylet,) = (
        process
        for process in cluster.processes(f"--node_ip_address={address}")
        if Path(process.cmdline()[0]).name == "raylet"
    )
    (node,) = re.findall(r"--node_id=(\w+)", " ".join(raylet.cmdline()))
    command = [sys.executable, "-m", "hemodist.cluster.drain", "--seconds", "100", "--node", node]
    done = subprocess.run(command, env=cluster.env, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    assert not has_worker(cluster.nodes[address].pid)
    kill_node(cluster, address)


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_a_killed_and_a_drained_node_change_no_score_and_no_sample(bucket: str, tmp_path: Path) -> None:
    local = Store.open(make_dataset(tmp_path / "dataset"))
    remote = Store.open(f"{bucket}/dataset")
    for name, _ in local.list():
        remote.write(name, local.read(name))
    tree = copy_of_the_tree(tmp_path / "tree")

    def command(name: str) -> list[object]:
        return [
            "jobs/train.py", "demo", "--name", name, "--output", f"{bucket}/runs",
            "--data.dataset", f"{bucket}/dataset", "--data.cache", tmp_path / "cache",
            "--model.name", "shufflenet_v2_x0_5", "--model.image-size", 32,
            "--batch.global-batch-size", 8, "--batch.mix-group", 2, "--optim.epochs", EPOCHS,
            "--checkpoint.every-steps", 5, "--scaling.workers", 2, "--scaling.device", "cpu",
            "--tracking.mode", "disabled", "--tracking.ledger", "--tracking.log-every", 5,
        ]  # fmt: skip

    with ray_head(cpus=1, env={name: os.environ[name] for name in (*ENVIRONMENT, "AWS_ENDPOINT_URL")}) as cluster:
        for number in (2, 3):
            cluster.add_node(number, cpus=1)
            cluster.wait_for_nodes(number)
        calm = cluster.run(tree, "calm", *command("calm"))
        process = cluster.submit(tree, "rough", *command("rough"))
        said = follow(process, "   2    ")
        kill_node(cluster, busy_node(cluster))
        said += follow(process, "going on at step")
        cluster.add_node(4, cpus=1)
        cluster.wait_for_nodes(3)
        said += follow(process, "    ")  # an epoch's row
        drain_node(cluster, busy_node(cluster))
        rest, _ = process.communicate(timeout=600)
        said += rest
        assert process.returncode == 0, said
        assert cluster.status("rough") == "SUCCEEDED"
    assert "is about to be taken away" in said
    assert said.count("going on at step") >= 2
    assert "going on" not in calm

    runs = {name: open_checkpoint(f"{bucket}/runs/{name}") for name in ("calm", "rough")}
    histories = {name: saved["state"]["history"] for name, saved in runs.items()}
    assert [row["epoch"] for row in histories["rough"]] == [row["epoch"] for row in histories["calm"]]
    for row, other in zip(histories["rough"], histories["calm"], strict=True):
        for score in ("weighted_log_loss", "auc_any", "accuracy_multi"):
            assert row[score] == pytest.approx(other[score], abs=1e-6), (row["epoch"], score)
    scores = [json.loads(Store.open(f"{bucket}/runs/{name}").read("metrics.json")) for name in runs]
    assert scores[0]["weighted_log_loss"]["value"] == pytest.approx(scores[1]["weighted_log_loss"]["value"], abs=1e-6)
    steps = json.loads(Store.open(f"{bucket}/runs/rough").read("history.json"))[-1]["step"]
    assert_no_step_is_lost_or_repeated(Run.from_dict(runs["rough"]["run"]), steps)
