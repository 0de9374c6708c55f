"""How long a run stands still when a worker is killed, a node is lost, or a node is taken away with notice.

Two workers of one CPU each on Ray nodes of this machine train a tiny network that saves every few steps, so that what
is measured is finding the loss and starting workers, and hardly the steps that are made again. A spare node stands by:
waiting for a machine is the cluster's business. Times are seconds between events as the driver hears them, which looks
every 0.3 s.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import psutil

from hemodist.bench.folds import smallest_fold
from hemodist.bench.ray_nodes import ray_nodes, training_workers
from hemodist.bench.rounds import Lap, Outcome, Rate, plot
from hemodist.cluster.workers import run_on_workers
from hemodist.config.data import BatchConfig, DataConfig
from hemodist.config.operation import CheckpointConfig, ScalingConfig, TrackingConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig, OptimConfig
from hemodist.events import AttemptStarted, Event, Saved, Started, StepDone, WorkersLost
from hemodist.training.loop import train

KILLED, LOST, LEFT = "a worker is killed", "a node is lost", "a node leaves with notice"

_NOTICE_SECONDS = 120.0
"""Clouds give 30 to 120."""

_QUIET_STEPS = 30
"""Between the start of the workers and the next fault."""


@dataclass(frozen=True)
class Recovery:
    """One fault, in seconds after it.

    Attributes:
        found: until the driver knows of it: the loss, or that the last step is saved.
        workers: until all workers are there again.
        going: until they have read the checkpoint.
        committed: until a checkpoint holds a step that had not been made before the fault.
        still: without a new step: from the fault, or from the last step before the workers left, to the next one that
            had not been made before.
        again: steps that were made again.
    """

    found: float
    workers: float
    going: float
    committed: float
    still: float
    again: int


class _EnoughError(Exception):
    """All faults are done; the run need not go on."""


class _Faults:
    """A `Tell` that does one fault after another and takes the time of what follows.

    A fault is a name, what is done before, and the fault itself.
    """

    def __init__(self, faults: Sequence[tuple[str, Callable[[], None], Callable[[], None]]]) -> None:
        self._faults = list(faults)
        self._left = 0  # steps until the next fault; counted from the start of the workers
        self._step = 0
        self._since: dict[str, float] = {}
        self._before: tuple[int, float] = (0, 0.0)
        self.recoveries: dict[str, list[Recovery]] = {name: [] for name, _, _ in faults}

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if self._since:
            self._recover(event, now)
        elif isinstance(event, Started):
            self._left = _QUIET_STEPS
        elif isinstance(event, StepDone):
            self._left -= 1
            self._step = event.step
            if self._left == 0:
                _, prepare, do = self._faults[0]
                prepare()
                self._before = (self._step, now)
                self._since = {"fault": time.monotonic()}
                do()

    def _recover(self, event: Event, now: float) -> None:
        since, again = self._since, "attempt" in self._since
        match event:
            case StepDone() if not again:  # made before the fault took effect
                self._before = (event.step, now)
            case WorkersLost():
                since.setdefault("lost", now)
            case Saved() if not again:
                since["saved"] = now
            case AttemptStarted():
                since["attempt"] = now
            case Started() if again:
                since["started"], self._step = now, event.step
            case StepDone() if event.step > self._before[0]:
                since.setdefault("new", now)
            case Saved() if event.step > self._before[0] and "new" in since:
                self._note(now)
            case _:
                pass

    def _note(self, now: float) -> None:
        since, start = self._since, self._since["fault"]
        name, _, _ = self._faults.pop(0)
        self.recoveries[name].append(
            Recovery(
                found=since["saved" if name == LEFT else "lost"] - start,
                workers=since["attempt"] - start,
                going=since["started"] - start,
                committed=now - start,
                still=since["new"] - (self._before[1] if name == LEFT else start),
                again=self._before[0] - self._step,
            )
        )
        self._since, self._left = {}, _QUIET_STEPS
        if not self._faults:
            raise _EnoughError


def bench_recovery(dataset: Path, work: Path, *, quick: bool) -> Outcome:
    """Kill workers and nodes, drain nodes, and measure until the run goes on.

    Args:
        dataset: any with labels.
        work: folder for the run.
        quick: one fault of each kind.
    """
    run = Run(
        name="recovery",
        output=str(work / "runs"),
        data=DataConfig(dataset=str(dataset), valid_fold=smallest_fold(dataset), decode_threads=1),
        batch=BatchConfig(global_batch_size=8, mix_group=4, block_shards=2),
        model=ModelConfig(name="shufflenet_v2_x0_5", image_size=32),
        optim=OptimConfig(epochs=100_000),
        scaling=ScalingConfig(device="cpu"),
        checkpoint=CheckpointConfig(every_steps=5),
        tracking=TrackingConfig(mode="disabled", log_every=1),
    )
    with ray_nodes(3) as nodes:
        kinds = (
            (KILLED, _nothing, lambda: training_workers(psutil.Process())[0].kill()),
            (LOST, nodes.add, nodes.kill),  # one more, so that there is a spare for the next fault
            (LEFT, nodes.add, lambda: nodes.drain(_NOTICE_SECONDS)),
        )
        heard = _Faults([*kinds] * (1 if quick else 5))
        with contextlib.suppress(_EnoughError):
            run_on_workers(
                train, run, run.scaling, gpu=False, tell=heard, name=run.name, folder=f"{run.output}/{run.name}"
            )
    return _outcome(heard.recoveries)


def _nothing() -> None:
    pass


def _outcome(recoveries: Mapping[str, Sequence[Recovery]]) -> Outcome:
    rows, figures = list[list[str]](), dict[str, Any]()
    for name, found in recoveries.items():
        columns = [[getattr(one, field.name) for one in found] for field in fields(Recovery)]
        rows.append([name, str(len(found)), *(_spread(values) for values in columns)])
        figures[name] = [asdict(one) for one in found]
    rates = [Rate(name, tuple(Lap(one.committed, 0.0) for one in found), {}) for name, found in recoveries.items()]
    medians = {name: statistics.median(one.committed for one in found) for name, found in recoveries.items()}
    title = "2 workers of one CPU on this machine, seconds after the fault: median (lowest to highest)"
    return Outcome(
        title,
        ["fault", "times", "known, or saved", "workers there", "going on", "new step saved", "still", "made again"],
        rows,
        {"node lost over worker killed, until a new step is saved": f"{medians[LOST] / medians[KILLED]:.2f}"},
        {"faults": figures},
        ("hemodist", "torch", "ray"),
        lambda path: plot(rates, "from the fault to a saved step that is new", "s", path),
    )


def _spread(values: Sequence[float]) -> str:
    digits = 1 if any(isinstance(value, float) for value in values) else 0
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
