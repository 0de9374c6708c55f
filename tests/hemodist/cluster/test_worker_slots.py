from __future__ import annotations

import pytest

from hemodist.cluster import worker_slots
from hemodist.cluster.worker_slots import WaitingForSlots
from hemodist.config.operation import ScalingConfig
from hemodist.events import AttemptStarted


@pytest.mark.parametrize(
    ("slots", "free", "said"),
    [
        (1, 1, "the cluster has slots for 1 workers, and the run needs 3"),
        (4, 2, "2 of the cluster's 4 slots for workers are free, and the run needs 3"),
        (4, 4, "slots for 4 workers are free, and they have not started yet"),
    ],
)
def test_who_waits_for_workers_is_told_what_for_and_again_every_few_minutes(slots, free, said, monkeypatch):
    now = 50.0
    monkeypatch.setattr("hemodist.cluster.worker_slots.time.monotonic", lambda: now)
    monkeypatch.setattr(worker_slots.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0 * slots}}])
    monkeypatch.setattr(worker_slots, "free_resources", lambda: {"node": {"CPU": 2.0 * free}})
    waiting = WaitingForSlots(ScalingConfig(workers=4, min_workers=3), {"CPU": 2})
    assert waiting.look() is None
    now += 21
    assert said in (waiting.look() or "")
    now += 200
    assert waiting.look() is None
    now += 101
    assert said in (waiting.look() or "")
    assert waiting.hear(AttemptStarted(4)) is None
    now += 1000
    assert waiting.look() is None


@pytest.mark.parametrize(
    ("held", "free", "leaving", "most"),
    [
        ([4, 4], [4, 4], (), 8),
        ([4, 4], [4, 0], (), 4),  # somebody else has the second node
        ([4, 4], [1, 0], (), 2),  # never fewer than are enough
        ([4], [4], (), 8),  # more nodes may be on their way: Ray takes what there is
        ([4, 4], [4, 4], ("1",), 4),
        ([0], [0], (), 8),
    ],
)
def test_ray_is_asked_for_no_more_workers_than_others_leave_slots_for(held, free, leaving, most, monkeypatch):
    now = [50.0]
    nodes = [{"Alive": True, "NodeID": str(i), "Resources": {"CPU": float(n)}} for i, n in enumerate(held)]
    monkeypatch.setattr(worker_slots.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(worker_slots, "free_resources", lambda: {str(i): {"CPU": n} for i, n in enumerate(free)})
    monkeypatch.setattr(worker_slots, "leaving_nodes", lambda: leaving)
    monkeypatch.setattr(worker_slots.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(worker_slots.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    assert worker_slots.workers_to_ask_for(ScalingConfig(workers=8, min_workers=2, wait_seconds=15), {"CPU": 1}) == most
    assert worker_slots.workers_to_ask_for(ScalingConfig(workers=8), {"CPU": 1}) == 8


def test_slots_that_get_free_within_the_wait_are_taken(monkeypatch):
    now = [50.0]
    monkeypatch.setattr(worker_slots.ray, "nodes", lambda: [{"Alive": True, "NodeID": "0", "Resources": {"CPU": 4.0}}])
    monkeypatch.setattr(worker_slots, "free_resources", lambda: {"0": {"CPU": 4.0 if now[0] > 55 else 1.0}})
    monkeypatch.setattr(worker_slots, "leaving_nodes", lambda: {})
    monkeypatch.setattr(worker_slots.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(worker_slots.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    assert worker_slots.workers_to_ask_for(ScalingConfig(workers=4, min_workers=1, wait_seconds=15), {"CPU": 1}) == 4
    assert 55 < now[0] < 57
