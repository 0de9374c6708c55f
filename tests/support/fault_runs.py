"""A small run that writes down its steps, the faults that are done to it, and what must hold afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
import torch

from hemodist.bench.ray_nodes import training_workers
from hemodist.config.data import AugmentConfig, BatchConfig, DataConfig, MixConfig
from hemodist.config.operation import CheckpointConfig, ScalingConfig, TrackingConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig, OptimConfig
from hemodist.events import Event, Started, StepDone
from hemodist.models.checkpoints import Checkpoints, open_checkpoint
from hemodist.plan.prepare import prepare
from hemodist.storage.store import Store
from hemodist.training.loop import train
from hemodist.training.sample_ledger import read_ledger
from hemodist.world import LeavingError, World
from tests.support.dataset import make_dataset

E = TypeVar("E")


def small_run(folder: Path, name: str, *, epochs: int = 2, tracked: bool = False, **scaling: Any) -> Run:
    """A network with batch norm, CutMix, augmentation and moving average: milliseconds a step, 40 to 60 an epoch.

    Args:
        folder: of data set and runs.
        name: of the run.
        epochs: of the run.
        tracked: keep an offline log of W&B, a row a step.
        scaling: fields of `ScalingConfig`.
    """
    if not (folder / "dataset").exists():
        make_dataset(folder / "dataset", samples=490, patients=98, per_shard=100)
    return Run(
        name=name,
        output=str(folder / "runs"),
        data=DataConfig(dataset=str(folder / "dataset"), decode_threads=1),
        batch=BatchConfig(global_batch_size=8, mix_group=2, eval_batch_size=128),
        augment=AugmentConfig(flip_horizontal=0.5, rotation_degrees=10.0),
        mix=MixConfig(kind="cutmix"),
        model=ModelConfig(name="shufflenet_v2_x0_5", image_size=32, ema_decay=0.9),
        optim=OptimConfig(epochs=epochs),
        scaling=ScalingConfig(device="cpu", **scaling),
        checkpoint=CheckpointConfig(every_steps=5),
        tracking=TrackingConfig(mode="offline" if tracked else "disabled", log_every=1, images=0, ledger=True),
    )


def train_until(world: World, run: Run, questions: int | None = None) -> int:
    """Train on given ranks, to the end or until the ranks have asked so often whether to leave; returns the step.

    The same loop as under Ray, on ranks that the tests start themselves.
    """
    asked = 0

    def must_leave() -> bool:
        nonlocal asked
        asked += 1
        return asked == questions

    try:
        train(run, replace(world, must_leave=must_leave), lambda event: None)
    except LeavingError as leaving:
        return leaving.step
    return prepare(run).total_steps


class Story:
    """A `Tell` that keeps what it is told and does each deed of a list once, when its time has come."""

    def __init__(self, *deeds: tuple[Callable[[Story, Event], bool], Callable[[], object]]) -> None:
        """Take the deeds, in order; each waits for its event after the one before is done."""
        self._deeds = list(deeds)
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        """Hear an event, and act."""
        self.events.append(event)
        if self._deeds and self._deeds[0][0](self, event):
            self._deeds.pop(0)[1]()

    @property
    def done(self) -> bool:
        """Whether every deed is done."""
        return not self._deeds

    def of(self, kind: type[E]) -> list[E]:
        """The events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]


def at_step(step: int, starts: int = 1) -> Callable[[Story, Event], bool]:
    """When a step is told that is not before `step`, by workers that were not started before the start numbered so.

    Steps that were made before a kill are told after it, too; only `starts` keeps two kills from being one loss.
    """
    return lambda story, event: isinstance(event, StepDone) and event.step >= step and len(story.of(Started)) >= starts


def kill_worker(number: int = 0) -> None:
    """SIGKILL one of the training workers that came out of this process."""
    workers = training_workers(psutil.Process())
    assert workers, "no training worker is running"
    workers[number % len(workers)].kill()


def newest_step(run: Run) -> int:
    """The step of the run's newest checkpoint."""
    return Checkpoints(Store.open(f"{run.output}/{run.name}"), keep=1).records()[-1].step


def assert_no_step_is_lost_or_repeated(run: Run, step: int) -> None:
    """The committed history up to `step` is the plan's: every global batch once, in order, sample for sample."""
    plan = prepare(run).plan
    keys = prepare(run).dataset.index.column("key").to_pylist()
    lines = read_ledger(Store.open(f"{run.output}/{run.name}"), step)
    assert [line["step"] for line in lines] == list(range(step))
    seen: Counter[tuple[str, str]] = Counter()
    for line in lines:
        share = plan.at(line["step"], 0, 1)
        read = [(epoch, key) for epoch, names in line["epochs"].items() for key in names]
        assert read == [(str(e), keys[row]) for e, row in zip(share.epochs, share.rows, strict=True)], line["step"]
        seen.update(read)
    assert set(seen.values()) == {1}
    whole = step * run.batch.global_batch_size // len(plan.rows)
    for epoch in range(whole):
        assert sum(e == str(epoch) for e, _ in seen) == len(plan.rows)


def assert_same_outcome(run: Run, undisturbed: Run) -> None:
    """Weights, moving average, optimizer and scores are equal to the bit."""
    found, expected = (open_checkpoint(f"{r.output}/{r.name}") for r in (run, undisturbed))
    assert found["state"]["step"] == expected["state"]["step"]
    for part in ("model", "ema", "scored"):
        for key, value in expected[part].items():
            assert torch.equal(found[part][key], value), f"{part} {key}"
    for number, state in expected["optimizer"]["state"].items():
        for key, value in state.items():
            assert torch.equal(found["optimizer"]["state"][number][key], value), f"optimizer {number} {key}"
    for row, other in zip(found["state"]["history"], expected["state"]["history"], strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], abs=1e-9)
        assert row["valid_loss"] == other["valid_loss"]
