"""hemodist's loader beside its peers: the same images, decoded and normalised to the same tensors on the same CPUs."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from hemodist.bench.peers.serve import Spec
from hemodist.bench.rounds import Lap, Rate, measure, ratio
from hemodist.dataset.dataset import DataSet
from hemodist.doctor.utilisation import watched
from hemodist.errors import UserError

OURS = "hemodist"
LIMIT = "bare decode"
READER = "DALI's reader"

MOSAIC = "mosaicml-streaming"

STREAMING = "mosaicml-streaming==0.13.0"
_ITS_NEEDS = ("torchvision==0.29.2", "torch==2.15.0", "pillow==13.0.0")


@dataclass(frozen=True)
class Peer:
    """One way of loading.

    Attributes:
        module: below `hemodist.bench.peers`, run as a process.
        arguments: of its command line, after the spec.
        package: that it needs, by its import name.
        bound: the least that hemodist's rate must be, as a multiple of this one's; None where none is set.
        settings: fields of its `Spec`.
    """

    module: str
    arguments: tuple[str, ...] = ()
    package: str = "nvidia.dali"
    bound: float | None = None
    settings: tuple[tuple[str, Any], ...] = ()


_IN_MAIN = (("normalise", "main"),)
_TORCHVISION = (*_IN_MAIN, ("decoder", "torchvision"))
PEERS: dict[str, Peer] = {
    OURS: Peer("hemodist_loader"),
    "hemodist, augmented": Peer("hemodist_loader", ("augmented",)),
    LIMIT: Peer("dali", ("resident",), bound=0.95),
    READER: Peer("dali", bound=0.95),
    "webdataset, PIL": Peer("web", package="webdataset", bound=2.0, settings=_IN_MAIN),
    "folder, torchvision": Peer("folder", package="torchvision", settings=_TORCHVISION),
    "litdata": Peer("lit", package="litdata", bound=1.0, settings=_TORCHVISION),
    MOSAIC: Peer("mosaic", package="streaming", bound=1.0, settings=_TORCHVISION),
}
"""What is measured; the settings are the fastest that were found for each on two cores, with a worker a core."""


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
        """One run. The CPU time is that of the batches before the clock starts, too."""
        before = self.cpu_seconds()
        with watched(self._spec.device) as seen:
            answer = self._ask("go")
        self._busy.append(seen.facts())
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


def missing(name: str, streaming_python: str | None) -> str | None:
    """Why a peer cannot be run here and what helps, or None."""
    peer = PEERS[name]
    if name == MOSAIC:
        return None if streaming_python else "it has no environment; give one by --streaming-python, or install uv"
    if importlib.util.find_spec(peer.package.partition(".")[0]) is None:
        return f"{peer.package} is not installed; use `uv run --group bench`"
    return None


def streaming_environment(folder: Path) -> str | None:
    """Make an environment that holds mosaicml-streaming by uv, and return its Python; None where that fails.

    It needs the package index. Its NumPy is older than hemodist's, so the two cannot share an environment.
    """
    python = folder / "bin" / "python"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not python.exists():
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(["uv", "venv", "--python", version, str(folder)], check=True, capture_output=True)
            install = ["uv", "pip", "install", "--python", str(python), STREAMING, *_ITS_NEEDS]
            subprocess.run(install, check=True, capture_output=True)
            return str(python)
        return None
    return str(python)


def spec_of(dataset: Path, work: Path, *, batch: int, cores: int, **settings: Any) -> Spec:
    """What the peers are told of a data set: the first `cores` CPUs that this process may use, and a worker on each."""
    opened = DataSet.open(str(dataset))
    allowed = tuple(sorted(os.sched_getaffinity(0))[:cores])
    size = int(opened.manifest.config["size"])
    settings = {"workers": len(allowed)} | settings
    return Spec(str(dataset), str(work), opened.manifest.samples, size, batch, allowed, **settings)


@contextlib.contextmanager
def processes(names: Sequence[str], spec: Spec, streaming_python: str | None = None) -> Iterator[dict[str, Process]]:
    """Start a process a peer, one after the other, and end them all."""
    started: dict[str, Process] = {}
    try:
        for name in names:
            peer = PEERS[name]
            python = streaming_python if name == MOSAIC and streaming_python else sys.executable
            started[name] = Process(name, peer, dataclasses.replace(spec, **dict(peer.settings)), python)
        yield started
    finally:
        for process in started.values():
            process.close()


def run(
    names: Sequence[str], spec: Spec, rounds: int, streaming_python: str | None = None, *, starts: int = 1
) -> list[Rate]:
    """Measure peers in turn.

    A process keeps for life where its memory happened to be put, which alone makes two of a kind differ by up to a
    tenth; so each peer is started several times.

    Args:
        names: of `PEERS`.
        spec: what is loaded; a peer's own settings replace its.
        rounds: that count, with each start.
        streaming_python: interpreter of the environment of mosaicml-streaming.
        starts: of each peer's process.

    Raises:
        PeerError: one cannot be run.
    """
    laps: dict[str, list[Lap]] = {name: [] for name in names}
    facts: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(starts):
        with processes(names, spec, streaming_python) as started:
            for name, found in measure({name: process.lap for name, process in started.items()}, rounds).items():
                laps[name] += found
            for name, process in started.items():
                own = {"first_batch_seconds": process.first_batch_seconds, "memory_mib": process.memory_mib()}
                facts[name].append(own | process.gpu())
    return [
        Rate(
            name, tuple(laps[name]), {key: statistics.median(one[key] for one in facts[name]) for key in facts[name][0]}
        )
        for name in names
    ]


def ratios(rates: Sequence[Rate]) -> dict[str, tuple[float, float, float | None]]:
    """Our rate as a multiple of each peer's: by the clock, by CPU time, and the bound that is set for it."""
    found = {rate.way: rate for rate in rates}
    ours = found.pop(OURS)
    return {
        f"{OURS} / {name}": (
            ratio(ours.rates, rate.rates),
            ratio([lap.cpu_ms for lap in rate.laps], [lap.cpu_ms for lap in ours.laps]),
            PEERS[name].bound,
        )
        for name, rate in found.items()
    }
