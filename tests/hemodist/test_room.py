from __future__ import annotations

import pytest

from hemodist import room
from hemodist.config import ScalingConfig
from hemodist.room import Waiting


@pytest.mark.parametrize(
    ("places", "free", "said"),
    [
        (1, 1, "the cluster has room for 1 workers, and the run needs 3"),
        (4, 2, "2 of the cluster's 4 places are free, and the run needs 3"),
        (4, 4, "room for 4 workers, and they have not started yet"),
    ],
)
def test_who_waits_for_workers_is_told_what_for_and_again_every_few_minutes(places, free, said, monkeypatch):
    now = 50.0
    monkeypatch.setattr("hemodist.room.time.monotonic", lambda: now)
    monkeypatch.setattr(room.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0 * places}}])
    monkeypatch.setattr(room, "available_resources_per_node", lambda: {"node": {"CPU": 2.0 * free}})
    waiting = Waiting(ScalingConfig(workers=4, min_workers=3), {"CPU": 2})
    assert waiting.look() is None
    now += 21
    assert said in (waiting.look() or "")
    now += 200
    assert waiting.look() is None
    now += 101
    assert said in (waiting.look() or "")
    assert waiting.hear({"kind": "attempt", "workers": 4}) is None
    now += 1000
    assert waiting.look() is None
