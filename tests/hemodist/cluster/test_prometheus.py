from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from hemodist.cluster import prometheus
from hemodist.events import EpochDone, Note, Saved, StepDone


class Shown:
    """Stands for Ray's gauge: keeps what would be shown."""

    values: ClassVar[dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert description
        self._name, self._keys = name, tag_keys

    def set_default_tags(self, tags: dict[str, str]) -> None:
        assert set(tags) == set(self._keys)
        self._tags = tuple(sorted(tags.items()))

    def set(self, value: float) -> None:
        self.values[self._name, self._tags] = value


@pytest.fixture
def shown(monkeypatch):
    monkeypatch.setattr(prometheus, "Gauge", Shown)
    monkeypatch.setattr(prometheus.ray, "is_initialized", lambda: True)
    Shown.values = {}
    return Shown.values


STEP = StepDone(step=7, total=9, loss=0.5, corrupt_samples=0, images_per_s=100.0, data_wait_share=0.25)


def test_every_event_is_passed_on_and_only_figures_are_shown(shown):
    heard: list = []
    tell = prometheus.Observed(heard.append, "run", 3)
    row = {"epoch": 2, "step": 7, "train_loss": 0.4, "valid_loss": 0.6, "auc_any": 0.7, "seconds": 9.0}
    events = [STEP, Note("sample ID_1 is masked out"), Saved(7), EpochDone(row)]
    for event in events:
        tell(event)
    assert heard == events
    labels = (("rank", "3"), ("run", "run"))
    assert shown["hemodist_loss", labels] == 0.5
    assert shown["hemodist_valid_loss", labels] == 0.6
    assert shown["hemodist_data_wait_share", labels] == 0.25
    assert shown["hemodist_checkpoint_time_s", labels] > 1.7e9
    assert {name for name, _ in shown} == {
        "hemodist_step", "hemodist_steps_total", "hemodist_loss", "hemodist_images_per_s", "hemodist_data_wait_share",
        "hemodist_device_share", "hemodist_communication_share", "hemodist_corrupt_samples",
        "hemodist_checkpoint_time_s", "hemodist_epoch", "hemodist_train_loss", "hemodist_valid_loss",
        "hemodist_auc_any",
    }  # fmt: skip


def test_without_a_cluster_nothing_is_shown_and_everything_passed_on(shown, monkeypatch):
    monkeypatch.setattr(prometheus.ray, "is_initialized", lambda: False)
    heard: list = []
    prometheus.Observed(heard.append, "run", 0)(STEP)
    assert heard == [STEP]
    assert shown == {}


def test_the_sharder_shows_files_done_rejected_and_its_rate_without_what_was_there(shown, monkeypatch):
    @dataclass
    class Result:
        samples: int
        rejected: int
        resumed: bool

    clock = iter([0.0, 1.0, 2.0])
    monkeypatch.setattr(prometheus.time, "monotonic", lambda: next(clock))
    heard: list = []
    progress = prometheus.observed_shards(heard.append, "shard")
    progress(Result(90, 10, True))
    progress(Result(40, 0, False))
    labels = (("rank", "0"), ("run", "shard"))
    assert shown["hemodist_shard_slices", labels] == 140
    assert shown["hemodist_shard_rejected", labels] == 10
    assert shown["hemodist_shard_slices_per_s", labels] == 20
    assert len(heard) == 2
