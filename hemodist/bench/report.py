"""The benches of the library, from a data set to what is shown."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hemodist.bench import command_lines, loader, planning, starting
from hemodist.bench.environments import environment
from hemodist.bench.nodes import BATCH, EPOCHS, PER_SHARD
from hemodist.bench.rounds import Outcome, plot, ratio
from hemodist.dataset.dataset import DataSet


def bench_loader(
    dataset: Path, work: Path, quick: bool, cores: int = 2, device: str = "cpu", streaming_python: str | None = None
) -> Outcome:
    """The loader and every peer that can be run here.

    Args:
        dataset: a data set whose images are stored at the network's size.
        work: folder for copies in other formats and for the environment of mosaicml-streaming.
        quick: fewer rounds.
        cores: CPUs for each way.
        device: where the batches must be.
        streaming_python: interpreter of an environment with mosaicml-streaming; made by uv where there is none.
    """
    starts, rounds, timed = (1, 5, 16) if quick else (5, 3, 32)
    python = streaming_python or environment(work / "streaming", loader.STREAMING)
    absent = {name: reason for name in loader.PEERS if (reason := loader.missing(name, python))}
    names = [name for name in loader.PEERS if name not in absent]
    spec = loader.spec_of(dataset, work, batch=64, cores=cores, device=device, warm=6, timed=timed)
    rates = loader.run(names, spec, rounds, python, starts=starts)
    found = loader.ratios(rates)
    busy = sorted({name for rate in rates for name in rate.facts} - {"first_batch_seconds", "memory_mib"})
    columns = ["way", "images/s", "lowest", "highest", "CPU ms/image", "first batch, s", "memory, MiB", *busy]
    rows = [
        [
            rate.way,
            *(f"{value:,.0f}" for value in (rate.median, min(rate.rates), max(rate.rates))),
            f"{rate.cpu_ms:.2f}",
            f"{rate.facts['first_batch_seconds']:.2f}",
            f"{rate.facts['memory_mib']:,.0f}",
            *(f"{rate.facts[name]:.0f}" for name in busy),
        ]
        for rate in rates
    ]
    figures = {
        "spec": asdict(spec) | {"dataset": dataset.name, "work": ""},
        "settings": {name: dict(loader.PEERS[name].settings) for name in names},
        "rates": [rate.to_dict() for rate in rates],
        "ratios": {name: value.to_dict() for name, value in found.items()},
        "not measured": absent,
        "in an environment of its own": {} if loader.MOSAIC in absent else {loader.MOSAIC: loader.STREAMING},
    }
    return Outcome(
        f"loader: {spec.size} px JPEG to float32 tensors on {device}, {cores} CPUs, median of {starts * rounds} rounds "
        f"in {starts} starts",
        columns,
        rows,
        {name: str(value) for name, value in found.items()},
        figures,
        ("hemodist", "nvidia-dali-cuda130", "torch", "torchvision", "webdataset", "litdata", "pillow", "numpy"),
        lambda path: plot(
            rates, f"Decoded and normalised, with and without augmentation, {cores} CPUs", "images a second", path
        ),
        [f"{name} was not measured: {reason}" for name, reason in absent.items()],
    )


def bench_plan(dataset: Path, work: Path, *, quick: bool) -> Outcome:
    """Planning for stage 2 of RSNA, and plan and shard cache with 1 to 16 simulated workers and nodes.

    Args:
        dataset: whose shards workers of one node open at the same time, and whose bytes a sample count.
        work: folder for copies of shards.
        quick: fewer steps, and a fourth of the slices on the simulated nodes.
    """
    samples = planning.SAMPLES // 4 if quick else planning.SAMPLES
    cost = planning.plan_cost()
    plans = planning.plan_scaling(planned=2**17 if quick else 2**19)
    caches = planning.cache_scaling(dataset, work)
    nodes = planning.node_scaling(work, samples)
    manifest = DataSet.open(str(dataset)).manifest
    gigabytes = PER_SHARD * sum(shard.bytes for shard in manifest.shards) / manifest.samples / 1e9
    rows = [
        [
            str(world),
            f"{plan.start_seconds:.2f}",
            f"{plan.peak_mib:.0f}",
            f"{plan.step_ms:.2f}",
            f"{caches[world].fetches / caches[world].shards:.2f}",
            *(f"{node.fetches:.2f}" for node in nodes[world].values()),
            *(f"{node.fetched * gigabytes:,.1f}" for node in nodes[world].values()),
        ]
        for world, plan in plans.items()
    ]
    capacities = [f"room for {capacity:.0%}" for capacity in planning.CAPACITIES]
    columns = [
        "workers or nodes",
        "plan: start, s",
        "MiB",
        "ms a step",
        "one node: fetches a shard",
        *(f"a node each: fetches a shard, {capacity}" for capacity in capacities),
        *(f"GB a node, {capacity}" for capacity in capacities),
    ]
    found = {
        "start": (cost.start_seconds, "s", 1.0),
        "memory": (cost.peak_mib, "MiB", 95.0),  # 100 MB
        "a batch in turn, mean": (cost.at_microseconds / 1000, "ms", 1.0),
        "a batch in turn, median": (cost.median_microseconds / 1000, "ms", None),
        "a batch in turn, slowest": (cost.worst_microseconds / 1000, "ms", None),
        "a batch anywhere, median": (cost.jump_microseconds / 1000, "ms", None),
    }
    shown = {
        f"one worker: {name}": f"{value:.3g} {unit}" + (f", {value / bound:.2f} of the bound" if bound else "")
        for name, (value, unit, bound) in found.items()
    }
    figures = {
        "samples": planning.SAMPLES,
        "samples of the simulated nodes": samples,
        "batch a worker": BATCH,
        "gigabytes a shard": gigabytes,
        "plan": asdict(cost),
        "workers": {world: asdict(value) for world, value in plans.items()},
        "one node": {world: asdict(value) for world, value in caches.items()},
        "a node each": {
            world: {capacity: asdict(value) for capacity, value in by_capacity.items()}
            for world, by_capacity in nodes.items()
        },
    }
    return Outcome(
        f"plan of {planning.SAMPLES:,} slices, {BATCH} a worker and step; {EPOCHS} epochs of {samples:,} on nodes",
        columns,
        rows,
        shown,
        figures,
        ("hemodist", "numpy"),
        lambda path: planning.plot(plans, caches, nodes, gigabytes, path),
    )


def bench_start(dataset: Path, work: Path, *, quick: bool) -> Outcome:
    """From the command to the first step, beside importing the same libraries and one step on noise.

    And from the command line to its help, or to the answer to a mistake, beside importing tyro, NumPy and pyarrow.
    """
    rates = starting.run(dataset, work, 2 if quick else 7)
    rows = [
        [rate.way, f"{1 / rate.median:.1f}", f"{1 / max(rate.rates):.1f}", f"{1 / min(rate.rates):.1f}"]
        for rate in rates
    ]
    ours, limit = rates
    share = ratio(ours.rates, limit.rates)
    asked = command_lines.cpu_ratios(1 if quick else 5)
    bound = command_lines.LIMIT
    return Outcome(
        "start: the command to the end of the first step, no Ray (AlexNet, batch 16)",
        ["way", "seconds", "fastest", "slowest"],
        rows,
        {"limit / hemodist, in seconds": f"{share:.2f}"}
        | {f"CPU time of {line}, over imports": f"{of:.2f} (bound {bound})" for line, of in asked.items()},
        {"rates": [rate.to_dict() for rate in rates], "ratios": {"start": share}, "command lines": asked},
        ("hemodist", "torch", "nvidia-dali-cuda130", "ray"),
        lambda path: plot(rates, "From the command to the first step", "starts a second", path),
    )
