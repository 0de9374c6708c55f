"""The benches of the library, from a data set to what is shown."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hemodist.bench import loader, planning, starting
from hemodist.bench.rounds import Outcome, plot, ratio


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
    rounds, timed = (5, 16) if quick else (15, 24)
    python = streaming_python or loader.streaming_environment(work / "streaming")
    absent = {name: reason for name in loader.PEERS if (reason := loader.missing(name, python))}
    names = [name for name in loader.PEERS if name not in absent]
    spec = loader.spec_of(dataset, work, batch=64, cores=cores, device=device, warm=6, timed=timed)
    rates = loader.run(names, spec, rounds, python)
    found = loader.ratios(rates)
    columns = ["way", "images/s", "lowest", "highest", "CPU ms/image", "first batch, s", "memory, MiB"]
    rows = [
        [
            rate.way,
            *(f"{value:,.0f}" for value in (rate.median, min(rate.rates), max(rate.rates))),
            f"{rate.cpu_ms:.2f}",
            f"{rate.facts['first_batch_seconds']:.2f}",
            f"{rate.facts['memory_mib']:,.0f}",
        ]
        for rate in rates
    ]
    shown = {
        name: f"{clock:.2f} by the clock, {cpu:.2f} by CPU time" + (f" (bound {bound})" if bound else "")
        for name, (clock, cpu, bound) in found.items()
    }
    figures = {
        "spec": asdict(spec) | {"dataset": dataset.name, "work": ""},
        "settings": {name: dict(loader.PEERS[name].settings) for name in names},
        "rates": [rate.to_dict() for rate in rates],
        "ratios": {name: {"clock": clock, "cpu": cpu, "bound": bound} for name, (clock, cpu, bound) in found.items()},
        "not measured": absent,
    }
    return Outcome(
        f"loader: {spec.size} px JPEG to float32 tensors on {device}, {cores} CPUs, median of {rounds} rounds",
        columns,
        rows,
        shown,
        figures,
        ("hemodist", "nvidia-dali-cuda130", "torch", "torchvision", "webdataset", "litdata", "pillow", "numpy"),
        lambda path: plot(rates, f"Decoded and normalised, {cores} CPUs", "images a second", path),
        [f"{name} was not measured: {reason}" for name, reason in absent.items()],
    )


def bench_plan(dataset: Path, work: Path, *, quick: bool) -> Outcome:
    """Planning for stage 2 of RSNA, and plan and cache with 1 to 16 simulated workers."""
    cost = planning.plan_cost()
    plans = planning.plan_scaling(steps=50 if quick else 500)
    caches = planning.cache_scaling(dataset, work)
    rows = [
        ["start, s", f"{cost.start_seconds:.3f}", "1"],
        ["memory, MiB", f"{cost.peak_mib:.1f}", "95"],  # 100 MB
        ["at(step) in turn, ms, mean", f"{cost.at_microseconds / 1000:.3f}", "1"],
        ["at(step) in turn, ms, median", f"{cost.median_microseconds / 1000:.4f}", ""],
        ["at(step) in turn, ms, slowest", f"{cost.worst_microseconds / 1000:.1f}", ""],
        ["at(step) anywhere, ms, median", f"{cost.jump_microseconds / 1000:.1f}", ""],
        *(
            [
                f"{world} workers: ms a step; fetches a shard",
                f"{1000 / plans[world]:.2f}; {one.fetches / one.shards:.2f}",
                "",
            ]
            for world, one in caches.items()
        ),
    ]
    figures = {
        "samples": planning.SAMPLES,
        "batch": planning.BATCH,
        "plan": asdict(cost),
        "steps_per_second": plans,
        "cache": {world: asdict(value) for world, value in caches.items()},
    }
    return Outcome(
        f"plan: {planning.SAMPLES:,} samples, batches of {planning.BATCH} a worker",
        ["what", "measured", "bound"],
        rows,
        {},
        figures,
        ("hemodist", "numpy"),
        lambda path: planning.plot(plans, caches, path),
    )


def bench_start(dataset: Path, work: Path, *, quick: bool) -> Outcome:
    """From the command to the first step, beside importing the same libraries and one step on noise."""
    rates = starting.run(dataset, work, 2 if quick else 7)
    rows = [
        [rate.way, f"{1 / rate.median:.1f}", f"{1 / max(rate.rates):.1f}", f"{1 / min(rate.rates):.1f}"]
        for rate in rates
    ]
    ours, limit = rates
    share = ratio(ours.rates, limit.rates)
    return Outcome(
        "start: the command to the end of the first step, no Ray (AlexNet, batch 16)",
        ["way", "seconds", "fastest", "slowest"],
        rows,
        {"limit / hemodist, in seconds": f"{share:.2f}"},
        {"rates": [rate.to_dict() for rate in rates], "ratios": {"start": share}},
        ("hemodist", "torch", "nvidia-dali-cuda130", "ray"),
        lambda path: plot(rates, "From the command to the first step", "starts a second", path),
    )
