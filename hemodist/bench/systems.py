"""Every recipe's training, loader and loop included, beside the same network on one resident batch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import torch

from hemodist.bench.rounds import Lap, Outcome, Rate, measure, plot, ratio
from hemodist.bench.training import BOUND, Duel, batch_size, on_stored_images
from hemodist.config.recipes import RECIPES
from hemodist.config.run import Run
from hemodist.world import World

_LOOP, _RESIDENT = "loop", "resident"


def bench_systems(
    dataset: Path,
    work: Path,
    *,
    quick: bool,
    device: str = "cpu",
    recipes: Sequence[Callable[[], Run]] = RECIPES,
    image_size: int | None = None,
) -> Outcome:
    """Train with each recipe's network, augmentation and CutMix; recipes that differ in nothing of it share a line.

    Weights are random: the time is the same, and nothing is downloaded.

    Args:
        dataset: with labels.
        work: folder for the runs.
        quick: fewer steps and rounds.
        device: that trains.
        recipes: what is measured.
        image_size: pixels; a recipe's own by default.
    """
    steps, rounds = ((1, 2) if quick else (4, 5)) if device == "cpu" else ((10, 3) if quick else (30, 7))
    rows, figures, rates = list[list[str]](), dict[str, Any](), list[Rate]()
    for names, recipe in _distinct(recipes):
        run = on_stored_images(recipe, dataset, work / names[0], batch_size(device))
        run = replace(run, model=replace(run.model, image_size=image_size or run.model.image_size))
        laps, use = laps_of(run, device, steps, rounds)
        loop, resident = (Rate(way, laps[way], use if way == _LOOP else {}) for way in (_LOOP, _RESIDENT))
        share = ratio(loop.rates, resident.rates)
        busy = f"{use['gpu_percent']:.0f} %" if "gpu_percent" in use else ""
        spread = [f"{r.median:,.1f} ({min(r.rates):,.1f} to {max(r.rates):,.1f})" for r in (loop, resident)]
        rows.append([", ".join(names), str(run.model.image_size), *spread, f"{share:.3f}", busy])
        figures[names[0]] = {
            "shared_by": names[1:],
            "image_size": run.model.image_size,
            "global_batch_size": run.batch.global_batch_size,
            "loop": loop.to_dict(),
            "resident": resident.to_dict(),
            "loop_over_resident": share,
        }
        rates.append(Rate(names[0], laps[_LOOP], {}))
    shares = {name: found["loop_over_resident"] for name, found in figures.items()}
    lowest = min(shares, key=lambda name: shares[name])
    title = f"every recipe, batches of {batch_size(device)}, on {device}, median of {rounds} rounds (range)"
    return Outcome(
        title,
        ["recipe", "px", "loop and loader, images/s", "resident batch, images/s", "ratio", "GPU busy"],
        rows,
        {f"lowest loop over resident batch, {lowest}": f"{shares[lowest]:.3f} (bound {BOUND})"},
        {"device": device, "rounds": rounds, "steps": steps, "recipes": figures},
        ("hemodist", "torch", "torchvision", "nvidia-dali-cuda130", "numpy"),
        lambda path: plot(rates, "training, loop and loader", "images/s", path),
    )


def _distinct(recipes: Sequence[Callable[[], Run]]) -> Iterator[tuple[list[str], Run]]:
    """Names of the recipes whose steps cost the same, and the first of them."""
    found: dict[tuple[Any, ...], tuple[list[str], Run]] = {}
    for recipe in recipes:
        run = recipe()
        # A found learning rate would have to be found first, and costs what any other does.
        run = replace(run, optim=replace(run.optim, lr=1e-4), model=replace(run.model, weights="none"))
        cost = (*astuple(run.model), *astuple(run.augment), *astuple(run.mix), run.optim.name, run.optim.clip_norm)
        found.setdefault(cost, ([], run))[0].append(run.name)
    yield from found.values()


def laps_of(run: Run, device: str, steps: int, rounds: int) -> tuple[dict[str, tuple[Lap, ...]], dict[str, float]]:
    """Laps of a run's `loop` and of its network on a `resident` batch, and how busy the GPU was during the former."""
    duel = Duel(run, World.alone(device), steps)
    laps = measure({_LOOP: duel.loop, _RESIDENT: duel.alone}, rounds)
    use = duel.use.facts()
    del duel
    gc.collect()  # network and pipeline, before the next ones are made
    if device != "cpu":
        torch.cuda.empty_cache()
    return laps, use
