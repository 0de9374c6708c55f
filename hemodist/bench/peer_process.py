"""A way of loading as a process of its own, and how it is asked to run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from hemodist.bench.peers.serve import Spec
from hemodist.bench.rounds import Lap
from hemodist.doctor.utilisation import watched
from hemodist.errors import UserError

_SETTLED = 0.05
"""Seconds without computing after which a process has made its stock of batches."""

_SETTLE_MOST = 15.0
"""Seconds after which nothing more is waited for."""


@dataclass(frozen=True)
class Peer:
    """One way of loading.

    Attributes:
        module: below `hemodist.bench.peers`, run as a process.
        arguments: of its command line, after the spec.
        package: that it needs, by its import name.
        bound: the least that hemodist's rate must be, as a multiple of this one's; None where none is set. hemodist
            is augmented where the peer is.
        settings: fields of its `Spec`.
    """

    module: str
    arguments: tuple[str, ...] = ()
    package: str = "nvidia.dali"
    bound: float | None = None
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def augmented(self) -> bool:
        """Whether it augments."""
        return "augment" in dict(self.settings)

    def spec(self, given: Spec) -> Spec:
        """The spec with its settings. What augments is slower, and times a quarter of the batches."""
        timed = max(given.timed // 4, 1) if self.augmented else given.timed
        return dataclasses.replace(given, timed=timed, **dict(self.settings))


class PeerError(UserError):
    """A way of loading cannot be run."""


class Process:
    """A peer's process, ready to run.

    Attributes:
        first_batch_seconds: from opening the data set to the first batch, imports not counted.
    """

    def __init__(self, name: str, peer: Peer, spec: Spec, python: str = sys.executable) -> None:
        """Start it and wait for its first batch."""
        self._name, self._spec = name, spec
        root = Path(__file__).parents[2]
        self._log = Path(spec.work) / f"{peer.module}.log"
        command = [python, "-m", f"hemodist.bench.peers.{peer.module}", spec.to_json(), *peer.arguments]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONPATH": str(root)},
            )
        self.first_batch_seconds = self._answer()["first_batch_seconds"]
        self._busy: list[dict[str, float]] = []

    def lap(self) -> Lap:
        """One run, and what follows of it: the process makes its stock of batches, which would slow the next way.

        The CPU time is that of the batches before the clock starts, too.
        """
        before = self.cpu_seconds()
        with watched(self._spec.device) as seen:
            answer = self._ask("go")
        self._busy.append(seen.facts())
        self._settle()
        images = (self._spec.warm + self._spec.timed) * self._spec.batch
        return Lap(answer["images"] / answer["seconds"], 1000 * (self.cpu_seconds() - before) / images)

    def first(self, path: Path) -> npt.NDArray[np.float32]:
        """The first batch of all, where nothing is shuffled, float32 [b, 3, size, size]."""
        self._ask(f"save {path}")
        batch: npt.NDArray[np.float32] = np.load(path)
        return batch

    def cpu_seconds(self) -> float:
        """CPU time of the process and its workers so far."""
        return float(sum(sum(process.cpu_times()[:2]) for process in self._tree()))

    def memory_mib(self) -> float:
        """Memory of the process and its workers, shared pages divided among those who share them."""
        return float(sum(process.memory_full_info().pss for process in self._tree())) / 2**20

    def gpu(self) -> dict[str, float]:
        """How busy the GPU was, in percent of the time, the median of the runs; empty without a GPU."""
        names = set().union(*self._busy)
        return {name: statistics.median(busy.get(name, 0.0) for busy in self._busy) for name in sorted(names)}

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        tree = self._tree()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for process in tree[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _settle(self) -> None:
        """Wait until neither the process nor its workers compute, but no longer than the slowest stock takes."""
        deadline, spent = time.monotonic() + _SETTLE_MOST, -1.0
        while (now := self.cpu_seconds()) > spent and time.monotonic() < deadline:
            spent = now
            time.sleep(_SETTLED)

    def _tree(self) -> list[psutil.Process]:
        try:
            parent = psutil.Process(self._process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _ask(self, line: str) -> dict[str, float]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the answer says so
            print(line, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            last = self._log.read_text().strip().splitlines()[-1:] or ["nothing"]
            raise PeerError(f"{self._name} ended with code {self._process.wait()}; the last it wrote is: {last[0]}")
        answer: dict[str, float] = json.loads(line)
        return answer
