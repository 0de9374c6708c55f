"""What the recovery bench counts as the time after a fault."""

from __future__ import annotations

import pytest

from hemodist.bench import recovery
from hemodist.bench.recovery import KILLED, LEFT, Recovery
from hemodist.events import AttemptStarted, Event, Saved, Started, StepDone, WorkersLost


def step_done(step: int) -> StepDone:
    return StepDone(step, total=100, loss=0.5, corrupt_samples=0, images_per_s=80.0, data_wait_share=0.0)


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

    def tell(at: float, event: Event) -> None:
        now[0] = at
        faults(event)

    tell(1, AttemptStarted(2))
    tell(1, Started(0, 100, 2))
    for step in range(1, 31):
        tell(1 + step / 10, step_done(step))
    assert done == ["ready", "killed"]  # at 4 s
    tell(4.1, step_done(31))  # made before, heard after
    tell(6, WorkersLost("worker 1 is gone", "", None))
    tell(7, WorkersLost("worker 1 is gone", "", None))
    tell(9, AttemptStarted(2))
    tell(12, Started(25, 100, 2))
    for step in range(26, 32):
        tell(12 + (step - 25) / 10, step_done(step))
    tell(12.6, Saved(30))
    tell(12.7, step_done(32))
    tell(13, Saved(35))
    assert faults.recoveries[KILLED] == [Recovery(2, 5, 8, 9, pytest.approx(8.7), 6)]

    for step in range(36, 66):
        tell(14 + (step - 36) / 10, step_done(step))
    assert done[-1] == "left"  # at 16.9 s
    tell(17, Saved(66))
    tell(17.5, step_done(67))
    tell(18, Saved(67))
    tell(20, AttemptStarted(2))
    tell(21, Started(67, 100, 2))
    tell(22, step_done(68))
    with pytest.raises(recovery._EnoughError):
        tell(22.5, Saved(70))
    (left,) = faults.recoveries[LEFT]
    assert left.found == pytest.approx(1.1)
    assert left.still == pytest.approx(4.5)  # from step 67 to step 68
    assert left.committed == pytest.approx(5.6)
    assert left.again == 0
