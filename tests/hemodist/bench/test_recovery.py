"""What the recovery bench counts as the time after a fault."""

from __future__ import annotations

import pytest

from hemodist.bench import recovery
from hemodist.bench.recovery import KILLED, LEFT, Recovery


def test_recovery_counts_from_the_fault_to_the_first_saved_step_that_is_new(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("hemodist.bench.recovery.time.monotonic", lambda: now[0])
    done: list[str] = []
    faults = recovery._Faults(
        [
            (KILLED, lambda: done.append("ready"), lambda: done.append("killed")),
            (LEFT, lambda: None, lambda: done.append("left")),
        ]
    )

    def tell(at: float, kind: str, step: int = 0) -> None:
        now[0] = at
        faults({"kind": kind, "step": step})

    tell(1, "attempt")
    tell(1, "started", 0)
    for step in range(1, 31):
        tell(1 + step / 10, "step", step)
    assert done == ["ready", "killed"]  # at 4 s
    tell(4.1, "step", 31)  # made before, heard after
    tell(6, "lost")
    tell(7, "lost")
    tell(9, "attempt")
    tell(12, "started", 25)
    for step in range(26, 32):
        tell(12 + (step - 25) / 10, "step", step)
    tell(12.6, "saved", 30)
    tell(12.7, "step", 32)
    tell(13, "saved", 35)
    assert faults.recoveries[KILLED] == [Recovery(2, 5, 8, 9, pytest.approx(8.7), 6)]

    for step in range(36, 66):
        tell(14 + (step - 36) / 10, "step", step)
    assert done[-1] == "left"  # at 16.9 s
    tell(17, "saved", 66)
    tell(17.5, "step", 67)
    tell(18, "saved", 67)
    tell(20, "attempt")
    tell(21, "started", 67)
    tell(22, "step", 68)
    with pytest.raises(recovery._EnoughError):
        tell(22.5, "saved", 70)
    (left,) = faults.recoveries[LEFT]
    assert left.found == pytest.approx(1.1)
    assert left.still == pytest.approx(4.5)  # from step 67 to step 68
    assert left.committed == pytest.approx(5.6)
    assert left.again == 0
