"""What a machine with a GPU is asked first: the tests that need one, and what each setting gains; one page of it."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from hemodist.bench.rounds import Outcome, Rate, plot
from hemodist.bench.systems import laps_of
from hemodist.bench.training import on_stored_images
from hemodist.config.recipes import densenet161_cutmix, resnet18
from hemodist.config.run import Run
from hemodist.errors import UserError
from hemodist.reports.versions import versions
from hemodist.storage.store import Store

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Tested:
    """What the tests that need a GPU have said.

    Attributes:
        passed: how many passed.
        failed: names and first lines of those that did not.
        skipped: names of those that were not run, with the reason.
    """

    passed: int
    failed: tuple[str, ...]
    skipped: tuple[str, ...]


def check_gpu() -> None:
    """Check that there is a GPU.

    Raises:
        UserError: there is none.
    """
    if not torch.cuda.is_available():
        raise UserError("torch finds no GPU on this machine; see what `nvidia-smi` and jobs/doctor.py say")


def run_tests(folder: Path) -> Tested:
    """Run `pytest -m gpu` of this checkout, and read what it says.

    Raises:
        UserError: this is no checkout with tests.
    """
    if not (CHECKOUT / "tests/gpu").is_dir():
        raise UserError(f"{CHECKOUT} has no folder tests/gpu; run this in a checkout")
    report = folder.resolve() / "gpu_tests.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", f"--junitxml={report}"],
        cwd=CHECKOUT,
        check=False,
    )
    if not report.exists():
        raise UserError("pytest has ended without a report; see above")
    return read_report(report.read_text())


def read_report(junit: str) -> Tested:
    """What a report of pytest in JUnit's XML says."""
    passed, failed, skipped = 0, list[str](), list[str]()
    for case in ET.fromstring(junit).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        for kind, kept in (("failure", failed), ("error", failed), ("skipped", skipped)):
            if (found := case.find(kind)) is not None:
                kept.append(f"{name}: {(found.get('message') or '').splitlines()[0]}")
                break
        else:
            passed += 1
    return Tested(passed, tuple(failed), tuple(skipped))


def cases(dataset: Path, work: Path) -> dict[str, Run]:
    """Runs that differ from `usual` in one setting each, by name."""

    def of(name: str, recipe: Callable[[], Run], batch: int = 128) -> Run:
        return on_stored_images(replace(recipe(), name=name.replace(" ", "-")), dataset, work, batch)

    made = dict[str, Run]()
    for load in (0.0, 0.65, 0.9, 1.0):
        run = of(name := f"resnet18 engine {load:g}", resnet18)
        made[name] = replace(run, data=replace(run.data, hw_decoder_load=load))
    for batch in (32, 64, 128, 256):
        made[name] = of(name := f"densenet161 batch {batch}", densenet161_cutmix, batch)
    for mode in ("default", "reduce-overhead"):
        run = of(name := f"densenet161 compiled {mode}", densenet161_cutmix)
        made[name] = replace(run, model=replace(run.model, compile=True, compile_mode=mode))
    run = of(name := "densenet161 deterministic", densenet161_cutmix)
    made[name] = replace(run, scaling=replace(run.scaling, deterministic=True))
    run = of(name := "densenet161 fp32", densenet161_cutmix)
    made[name] = replace(run, scaling=replace(run.scaling, precision="fp32"))
    return made


def bench_settings(runs: Mapping[str, Run], *, quick: bool, device: str = "cuda") -> Outcome:
    """Train each run, loop and loader included, beside its network on one resident batch.

    Args:
        runs: by the name of what is set.
        quick: fewer steps and rounds.
        device: that trains.
    """
    steps, rounds = (10, 3) if quick else (30, 5)
    rows, rates = list[list[str]](), list[Rate]()
    for name, run in runs.items():
        laps, use = laps_of(run, device, steps, rounds)
        rate, resident = Rate(name, laps["loop"], use), Rate(name, laps["resident"], {})
        rates.append(rate)
        busy = [f"{use[key]:.0f} %" if key in use else "" for key in ("gpu_percent", "jpeg_engine_percent")]
        spread = f"{rate.median:,.0f} ({min(rate.rates):,.0f} to {max(rate.rates):,.0f})"
        rows.append([name, spread, f"{resident.median:,.0f}", *busy])
    torch.use_deterministic_algorithms(False)
    return Outcome(
        f"settings, on {device}, median of {rounds} rounds (range)",
        ["setting", "loop and loader, images/s", "resident batch, images/s", "GPU busy", "JPEG engine busy"],
        rows,
        {},
        {"device": device, "rounds": rounds, "steps": steps, "rates": [rate.to_dict() for rate in rates]},
        ("hemodist", "torch", "torchvision", "nvidia-dali-cuda130", "numpy"),
        lambda path: plot(rates, "training, loop and loader", "images/s", path),
    )


def described() -> list[str]:
    """A line a GPU of this machine: name, driver, memory, power limit."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def write_page(tested: Tested, outcomes: Mapping[str, Outcome], gpus: Sequence[str], folder: Path) -> Path:
    """Write `bench_gpu.md`: devices, versions, date, the tests, and a table a bench; returns it."""
    about = [
        f"# On a GPU, {datetime.now(UTC):%Y-%m-%d}",
        *(f"- {line}" for line in gpus),
        f"- {', '.join(f'{name} {version}' for name, version in versions().items())}",
        f"- tests: {tested.passed} passed, {len(tested.failed)} failed, {len(tested.skipped)} skipped",
        *(f"  - failed: {line}" for line in tested.failed),
        *(f"  - skipped: {line}" for line in tested.skipped),
    ]
    parts = ["\n".join([about[0], "", *about[1:]])]
    for name, outcome in outcomes.items():
        table = [outcome.columns, ["---"] * len(outcome.columns), *outcome.rows]
        lines = [f"## {name}: {outcome.title}", "", *(f"| {' | '.join(row)} |" for row in table)]
        lines += ["", *(f"- {what}: {value}" for what, value in outcome.ratios.items()), *outcome.notes]
        parts.append("\n".join(lines).rstrip())
    store = Store.open(folder)
    store.write("bench_gpu.md", ("\n\n".join(parts) + "\n").encode())
    return store.local("bench_gpu.md")
