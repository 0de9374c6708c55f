from __future__ import annotations

import subprocess
import sys

import pytest

from hemodist.cluster import ray_internals, session
from hemodist.cluster.session import ClusterInfo, cluster, no_process_left_behind
from hemodist.errors import UserError
from tests.support.processes import MARK, alive

STARTS_ANOTHER_AS_IT_ENDS = """
import signal, subprocess, sys, time

def end(*_):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    sys.exit()

signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
time.sleep(600)
"""


def test_a_process_that_another_started_as_it_was_ended_is_ended_too(monkeypatch):
    monkeypatch.setenv(MARK, "starts-another-as-it-ends")
    with no_process_left_behind():
        process = subprocess.Popen([sys.executable, "-c", STARTS_ANOTHER_AS_IT_ENDS], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
    assert alive("starts-another-as-it-ends") == []


@pytest.fixture
def starts(monkeypatch):
    """`ray.init` that fails as often as the test says; its calls."""
    calls, monkeypatched = [], {"failures": 0}

    def init(**options):
        calls.append(options)
        if len(calls) <= monkeypatched["failures"]:
            raise Exception("The current node timed out during startup. This could happen\nbecause of many things")

    monkeypatch.setattr(session.ray, "init", init)
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)
    monkeypatch.setattr(session, "look", lambda joined: ClusterInfo(2, 0, joined))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv(ray_internals.ON_LOOPBACK, "0")
    return calls, monkeypatched


def test_ray_that_did_not_come_up_is_tried_once_more(starts):
    calls, set_ = starts
    set_["failures"] = 1
    with cluster(2) as info:
        assert info.cpus == 2
    assert len(calls) == 2


def test_ray_that_does_not_come_up_twice_is_one_line_with_the_remedy(starts):
    calls, set_ = starts
    set_["failures"] = 2
    with pytest.raises(UserError, match=r"tried twice \(The current node timed out") as raised, cluster(2):
        pass
    assert len(calls) == 2
    assert "\n" not in str(raised.value)
    assert "0 workers" in str(raised.value)


def test_a_cluster_that_cannot_be_joined_is_named(starts, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    starts[1]["failures"] = 2
    with pytest.raises(UserError, match=r"10\.0\.0\.9:6379, cannot be joined .*unset RAY_ADDRESS"), cluster(2):
        pass


def test_ctrl_c_while_ray_starts_is_no_reason_to_try_again(starts, monkeypatch):
    def interrupted(**options):
        starts[0].append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(session.ray, "init", interrupted)
    with pytest.raises(KeyboardInterrupt), cluster(2):
        pass
    assert len(starts[0]) == 1
