from __future__ import annotations

import subprocess
import sys

from hemodist.cluster.session import no_process_left_behind
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
