"""A real Ray cluster with its job server, made of child processes and ended by their ids; its head is on 127.0.0.1."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.processes import CHECKOUT, MARK, alive

RAY = Path(sys.executable).parent / "ray"
JOIN = """
import sys
from ray._private import ray_constants, services
ray_constants.ENABLE_RAY_CLUSTER = True
services.get_node_ip_address = lambda address=None: "127.0.0.1"
from ray.scripts.scripts import main
sys.exit(main())
"""
"""`ray` for further nodes: RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, which pins the head to 127.0.0.1, makes `ray` refuse to
start them. Ray 2.60 opens the ports of a node with another address, such as 127.0.0.2, on all interfaces."""

NOT_COPIED = (".git", ".venv", "__pycache__", ".*_cache", ".hypothesis")


@dataclass
class Cluster:
    """A running cluster.

    Attributes:
        address: of its job server.
        gcs: address of its control service, which nodes join.
        temp: Ray's own files, logs among them.
        metrics: port of the head's metrics for Prometheus.
        mark: carried by every process of it.
        env: of its processes.
        nodes: the process of each node by its address, the head first.
    """

    address: str
    gcs: str
    temp: Path
    metrics: int
    mark: str
    env: dict[str, str]
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def get(self, path: str) -> Any:
        """What the job server answers, from JSON."""
        with urllib.request.urlopen(f"{self.address}{path}") as answer:
            return json.loads(answer.read())

    def status(self, job: str) -> str:
        """Of a job: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
        return str(self.get(f"/api/jobs/{job}")["status"])

    def metrics_with(self, name: str, job: subprocess.Popen[str]) -> str:
        """What the head shows to Prometheus, once it holds a name, while a job runs."""
        while job.poll() is None:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics") as answer:
                text = str(answer.read().decode())
            if name in text:
                return text
            time.sleep(0.2)
        raise AssertionError(f"the job ended without {name} among the metrics")

    def submit(self, tree: Path, job: str, *command: object) -> subprocess.Popen[str]:
        """`ray job submit --working-dir TREE -- python COMMAND`; its output is what follows the job's."""
        arguments = ["--address", self.address, "--submission-id", job, "--working-dir", str(tree), "--", "python"]
        return subprocess.Popen(
            [str(RAY), "job", "submit", *arguments, *map(str, command)],
            cwd=tree,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ask(self, *arguments: str) -> str:
        """The output of `ray job ARGUMENTS`."""
        command = [str(RAY), "job", arguments[0], "--address", self.address, *arguments[1:]]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, tree: Path, job: str, *command: object) -> str:
        """Submit, follow to the end, and return what was printed; the job must succeed."""
        process = self.submit(tree, job, *command)
        printed, _ = process.communicate()
        assert process.returncode == 0, printed
        return printed

    def processes(self, text: str) -> list[psutil.Process]:
        """The cluster's running processes whose command line holds a text."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if text in " ".join(process.cmdline()) and process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found

    def add_node(self, number: int, cpus: int) -> str:
        """Start another node, with an address of its own; returns the address."""
        address = f"127.0.0.{number}"
        arguments = ["--address", self.gcs, "--node-ip-address", address, "--num-cpus", cpus, "--temp-dir", self.temp]
        self.nodes[address] = self._start(address, [*arguments, "--object-store-memory", 100_000_000, "--block"])
        return address

    def wait_for_nodes(self, count: int) -> None:
        """Wait until so many nodes are alive."""
        while True:
            found = self.get("/api/v0/nodes?filter_keys=state&filter_predicates=%3D&filter_values=ALIVE")
            if len(found["data"]["result"]["result"]) == count:
                return
            time.sleep(0.5)

    def _start(self, name: str, arguments: list[object]) -> subprocess.Popen[bytes]:
        program = [str(RAY)] if "--head" in arguments else [sys.executable, "-c", JOIN]
        with (self.temp / f"{name}.out").open("wb") as output:
            return subprocess.Popen(
                [*program, "start", *map(str, arguments)],
                cwd=self.temp,  # not the checkout: a job finds its code in what was submitted
                env=self.env,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )


@contextlib.contextmanager
def ray_head(cpus: int, env: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A cluster of one node; on leaving, every process of it is ended and none may be left.

    Args:
        cpus: of the head.
        env: variables that the cluster's processes get beside this one's.
    """
    temp = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets lie below it, whose paths are limited to 107 bytes
    mark = uuid.uuid4().hex
    job_port, gcs_port, metrics_port, agent_port, client_port = free_ports(5)
    # Ray starts `python` from the PATH.
    path = f"{RAY.parent}{os.pathsep}{os.environ['PATH']}"
    full = os.environ | {"PATH": path, MARK: mark, "RAY_TMPDIR": str(temp)} | dict(env or {})
    full["RAY_metrics_report_interval_ms"] = "1000"
    full["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # the tests drain nodes themselves, or want them gone
    cluster = Cluster(f"http://127.0.0.1:{job_port}", f"127.0.0.1:{gcs_port}", temp, metrics_port, mark, full)
    options = {
        "--port": gcs_port,
        "--node-ip-address": "127.0.0.1",
        "--dashboard-host": "127.0.0.1",
        "--dashboard-port": job_port,
        "--dashboard-agent-listen-port": agent_port,
        "--metrics-export-port": metrics_port,
        "--ray-client-server-port": client_port,
        "--num-cpus": cpus,
        "--object-store-memory": 150_000_000,
        "--temp-dir": temp,
    }
    flags = [text for option in options.items() for text in option]
    head = cluster._start("127.0.0.1", ["--head", "--block", *flags])
    cluster.nodes["127.0.0.1"] = head
    try:
        while True:
            assert head.poll() is None, (temp / "127.0.0.1.out").read_text()
            with contextlib.suppress(OSError, ValueError):
                cluster.get("/api/jobs/")
                break
            time.sleep(0.2)
        yield cluster
    finally:
        for node in reversed(cluster.nodes.values()):
            _end(node)
        left = alive(mark)
        shutil.rmtree(temp, ignore_errors=True)
    assert left == []


def copy_of_the_tree(target: Path) -> Path:
    """What a user has checked out."""
    shutil.copytree(CHECKOUT, target, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return target


def free_ports(count: int) -> list[int]:
    """TCP ports that nobody listens at now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in sockets]


def _end(node: subprocess.Popen[bytes]) -> None:
    """End a node as a pod's end does: SIGTERM to `ray start --block`, which ends its children."""
    children = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(node.pid).children(recursive=True)
    node.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        node.wait(timeout=120)
    _, stubborn = psutil.wait_procs(children, timeout=60)
    for process in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn)
    if node.poll() is None:
        node.kill()
        node.wait()
