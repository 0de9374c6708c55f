"""`jobs/bench.py all --quick` measures everything in a quarter of an hour and leaves figures and plots."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import pytest

from tests.support.processes import CHECKOUT, alive, start

WHATS = ("sharder", "loader", "plan", "start", "train", "recovery")
MINUTES = 15
CORES = 2


@pytest.mark.faults
@pytest.mark.timeout(4 * 60 * MINUTES)
def test_a_quick_bench_prints_every_ratio_and_leaves_figures_and_plots(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process, mark = start(
        [CHECKOUT / "jobs/bench.py", "all", "--quick", "--output", tmp_path / "out"], tmp_path, tmp_path / "log"
    )
    code = process.wait()
    log = (tmp_path / "log").read_text()
    assert code == 0, log
    assert alive(mark) == []
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # By CPU time, since other processes of the machine count against the clock.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60 * MINUTES * CORES
    for what in WHATS:
        values = json.loads((tmp_path / f"out/bench_{what}.json").read_text())
        assert values["what"] == what
        assert {"machine", "versions", "commit", "date"} <= values.keys()
        assert values["machine"]["cpus"] == len(os.sched_getaffinity(0))
        assert values["machine"]["python"] == sys.version.split()[0]
        assert (tmp_path / f"out/bench_{what}.png").read_bytes().startswith(b"\x89PNG")
        assert f"bench_{what}.json" in log
    for ratio in ("share of the limit", "times the notebook", "hemodist / bare decode", "loop over resident batch"):
        assert ratio in log, ratio
    recoveries = json.loads((tmp_path / "out/bench_recovery.json").read_text())["faults"]
    assert len(recoveries) == 3
    assert all(one["committed"] > 0 for found in recoveries.values() for one in found)
