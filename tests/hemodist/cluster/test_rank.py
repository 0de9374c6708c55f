from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
import ray.train

from hemodist.cluster import rank
from hemodist.events import EpochDone, Note

CONTEXT = str(Path(ray.train.__file__).parent / "v2/_internal/execution/context.py")


@pytest.fixture
def terminal():
    """What a worker's root logger writes to the job's terminal."""
    text = io.StringIO()
    handler, root = logging.StreamHandler(text), logging.getLogger()
    root.addHandler(handler)
    yield text
    root.removeHandler(handler)


def test_an_epochs_row_is_passed_on_and_then_reported_once_without_a_checkpoint(monkeypatch):
    done: list = []
    monkeypatch.setattr(rank.ray.train, "report", lambda *given: done.append(given))
    tell = rank.Reported(done.append)
    row = {"epoch": 1, "valid_loss": 0.5}
    events = [Note("x"), EpochDone(row)]
    for event in events:
        tell(event)
    assert done == [*events, (row,)]


def test_the_terminal_hears_ray_trains_warnings_and_not_what_it_does(terminal):
    rank.Reported(print)
    root = logging.getLogger()
    for level, file, text in (
        (logging.INFO, CONTEXT, "Reporting training result 1"),
        (logging.WARNING, CONTEXT, "a rank is late"),
        (logging.INFO, __file__, "of another library"),
    ):
        record = root.makeRecord(file, level, file, 1, text, (), None)
        for handler in root.handlers:
            handler.handle(record)
    assert terminal.getvalue().splitlines() == ["a rank is late", "of another library"]
