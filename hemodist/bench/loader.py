"""hemodist's loader beside its peers: the same images, decoded and normalised to the same tensors on the same CPUs."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hemodist.bench.peer_process import Peer, Process
from hemodist.bench.peers.serve import Spec
from hemodist.bench.rounds import Lap, Rate, Ratio, measure
from hemodist.config.recipes import resnet18
from hemodist.dataset.dataset import DataSet

OURS, AUGMENTED = "hemodist", "hemodist, augmented"
LIMIT = "bare decode"
READER = "DALI's reader"

MOSAIC = "mosaicml-streaming"

STREAMING = ("mosaicml-streaming==0.13.0", "torchvision==0.29.2", "torch==2.15.0", "pillow==13.0.0")
"""Of an environment of its own: its NumPy is older than hemodist's."""


_IN_MAIN = (("normalise", "main"),)
_TORCHVISION = (*_IN_MAIN, ("decoder", "torchvision"))
_AUGMENT = (("augment", dataclasses.asdict(resnet18().augment)),)
PEERS: dict[str, Peer] = {
    OURS: Peer("hemodist_loader"),
    LIMIT: Peer("dali", ("resident",), bound=0.99),
    READER: Peer("dali", bound=0.97),
    "webdataset, PIL": Peer("web", package="webdataset", bound=2.0, settings=_IN_MAIN),
    "folder, torchvision": Peer("folder", package="torchvision", settings=_TORCHVISION),
    "litdata": Peer("lit", package="litdata", bound=1.0, settings=_TORCHVISION),
    MOSAIC: Peer("mosaic", package="streaming", bound=1.0, settings=_TORCHVISION),
    AUGMENTED: Peer("hemodist_loader", settings=_AUGMENT),
    "webdataset, PIL, augmented": Peer("web", package="webdataset", settings=(*_IN_MAIN, *_AUGMENT)),
    "webdataset, tensors, augmented": Peer("web", package="webdataset", settings=(*_TORCHVISION, *_AUGMENT)),
    "litdata, PIL, augmented": Peer("lit", package="litdata", settings=(*_IN_MAIN, *_AUGMENT)),
    f"{MOSAIC}, PIL, augmented": Peer("mosaic", package="streaming", settings=(*_IN_MAIN, *_AUGMENT)),
}
"""What is measured; the settings are the fastest that were found for each on two cores, with a worker a core. Augmented
is what nearly all recipes do: crop, flip, rotation, brightness and contrast, in the peers by torchvision's transforms.
"""

_FIRST = "first_batch_seconds"

OVER_FASTEST = 1.3
"""Least rate of the augmented loader, as a multiple of the fastest augmented peer's."""

OF_PLAIN = 0.35
"""Least rate of the augmented loader, as a multiple of the one without augmentation."""


def missing(name: str, streaming_python: str | None) -> str | None:
    """Why a peer cannot be run here and what helps, or None."""
    peer = PEERS[name]
    if peer.module == "mosaic":
        return None if streaming_python else "it has no environment; give one by --streaming-python, or install uv"
    if importlib.util.find_spec(peer.package.partition(".")[0]) is None:
        return f"{peer.package} is not installed; use `uv run --group bench`"
    return None


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
            python = streaming_python if peer.module == "mosaic" and streaming_python else sys.executable
            started[name] = Process(name, peer, peer.spec(spec), python)
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
                own = {_FIRST: process.first_batch_seconds, "memory_mib": process.memory_mib()}
                facts[name].append(own | process.gpu())
    return [
        Rate(
            name,
            tuple(laps[name]),
            {key: statistics.median(one[key] for one in facts[name]) for key in facts[name][0]},
            tuple(one[_FIRST] for one in facts[name]),
        )
        for name in names
    ]


def ratios(rates: Sequence[Rate]) -> dict[str, Ratio]:
    """Our rates as multiples of the peers' by the clock and by CPU time, augmented beside augmented.

    And when our first batch was there, beside the earliest of theirs.
    """
    found = {rate.way: rate for rate in rates}
    shown: dict[str, Ratio] = {}
    for ours, augmented in ((OURS, False), (AUGMENTED, True)):
        mine = found[ours]
        peers = [rate for rate in rates if PEERS[rate.way].augmented == augmented and rate.way != ours]
        for peer in peers:
            shown[f"{ours} / {peer.way}"] = Ratio.of(mine.rates, peer.rates, PEERS[peer.way].bound)
            cpu = Ratio.of([lap.cpu_ms for lap in peer.laps], [lap.cpu_ms for lap in mine.laps])
            shown[f"{ours} / {peer.way}, by CPU time"] = cpu
        if augmented and peers:
            fastest = max(peers, key=lambda rate: rate.median)
            shown[f"{ours} / {fastest.way}, the fastest"] = Ratio.of(mine.rates, fastest.rates, OVER_FASTEST)
        if loaders := [rate for rate in peers if rate.way != LIMIT]:
            first = min(loaders, key=lambda rate: rate.facts[_FIRST])
            name = f"seconds to the first batch, {ours} / {first.way}, the earliest"
            shown[name] = Ratio.of(mine.first_batches, first.first_batches, 1.0, at_most=True)
    shown[f"{AUGMENTED} / {OURS}"] = Ratio.of(found[AUGMENTED].rates, found[OURS].rates, OF_PLAIN)
    return shown
