"""Leslie Smith's learning-rate range test on the real loader and ranks ("Cyclical Learning Rates", WACV 2017, 3.3).

The learning rate rises exponentially from step to step; where the loss falls fastest, training is fast, and where it
turns up, it is about to diverge. `lr_curve` reads the curve.
"""

from __future__ import annotations

import io
import json
import math
import textwrap
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from hemodist.config.range_test import FEWEST, RangeTest
from hemodist.events import Tell
from hemodist.plan.prepare import prepare
from hemodist.storage.store import Store, join
from hemodist.training.divergence import DivergedError
from hemodist.training.found_lr import FOLDER, PLOT, RESULT, FoundLr, origin_of
from hemodist.training.loop import Training
from hemodist.training.lr_curve import read_off, smooth
from hemodist.world import World


def run_range_test(test: RangeTest, world: World, tell: Tell) -> FoundLr | None:
    """Make the test on every rank; rank 0 writes result and plot below the run, and returns the result.

    A test that says nothing is written too, with the reason.

    Raises:
        UserError: the configuration cannot work.
    """
    prepared = prepare(replace(test.run, optim=replace(test.run.optim, lr=test.lowest)))
    epochs = -(-test.steps * test.run.batch.global_batch_size // len(prepared.split.train))
    # Below the run's own folder, under another name: a run that is there already is neither read nor changed.
    run = replace(
        test.run,
        name=FOLDER,
        output=join(test.run.output, test.run.name),
        optim=replace(test.run.optim, lr=test.lowest, schedule="constant", warmup_steps=0, epochs=epochs),
        tracking=replace(test.run.tracking, log_every=1, images=0, artifacts=False, ledger=False),
    )
    training = Training(run, world, tell, at_most=test.steps)
    batches = training.batches()

    def step_at(lr: float) -> float:
        loss_sum, weight = world.sum(training.update(next(batches), lr).sums.clone()).tolist()
        training.catch_up()  # the loss of each step decides about the next one anyway
        return loss_sum / weight if weight else math.nan

    rates, losses = sweep(test, step_at)
    training.reader.cache.close()
    if training.run_log is None:
        return None
    smoothed = smooth(losses, test.smoothing).tolist() if losses else []
    result = FoundLr(read_off(test, rates, losses), rates, losses, smoothed, origin_of(test.run, prepared))
    plot = draw(result, test.run.name)
    store = Store.open(join(test.run.output, test.run.name))
    store.write(PLOT, plot)
    training.run_log.picture("loss against learning rate", np.asarray(Image.open(io.BytesIO(plot)).convert("RGB")))
    training.run_log.close({name: value for name, value in asdict(result.reading).items() if value})
    store.write(RESULT, (json.dumps(asdict(result), indent=2) + "\n").encode())
    return result


def sweep(test: RangeTest, step_at: Callable[[float], float]) -> tuple[list[float], list[float]]:
    """Make steps at rising learning rates until the last one, or until the loss diverges.

    Args:
        test: rates, steps and when the loss counts as diverged.
        step_at: makes one step at a learning rate and returns its loss, the same on every rank.

    Returns:
        The learning rates and the losses of the steps that were made, finite all.
    """
    rates, losses = list[float](), list[float]()
    for lr in np.geomspace(test.lowest, test.highest, test.steps).tolist():
        try:
            loss = step_at(lr)
        except DivergedError:
            break
        if not math.isfinite(loss):
            break
        rates.append(lr)
        losses.append(loss)
        smoothed = smooth(losses, test.smoothing)
        if len(losses) > FEWEST and smoothed[-1] > test.diverged * smoothed.min():
            break
    return rates, losses


def draw(found: FoundLr, title: str) -> bytes:
    """Loss against learning rate as PNG, with the suggestions marked, or why there are none."""
    figure = Figure(figsize=(8, 5), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, color="#bbbbbb", linewidth=0.8, label="loss of a step")
    axes.plot(found.rates, found.smoothed, color="#1f78b4", linewidth=2, label="smoothed")
    reading = found.reading
    for name, lr, color, marker in (
        ("steepest", reading.steepest, "#d95f02", "v"),
        ("valley", reading.valley, "#1b9e77", "o"),
        ("minimum / 10", reading.tenth, "#7570b3", "s"),
        ("used", reading.lr, "#111111", "*"),
    ):
        if lr is not None:
            height = np.interp(np.log(lr), np.log(found.rates), found.smoothed)
            axes.plot([lr], [height], marker, color=color, markersize=10, label=f"{name} {lr:.2g}")
            axes.axvline(lr, color=color, linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss (nats)")
    if found.smoothed:
        low, high = min(found.smoothed), max(found.smoothed[: max(len(found.smoothed) // 2, 1)])
        axes.set_ylim(low - 0.15 * (high - low), high + 0.6 * (high - low))  # the divergence would flatten the rest
    axes.set_title(f"Learning-rate range test of {title}")
    if reading.failed:
        axes.text(0.5, 0.97, textwrap.fill(reading.failed, 80), transform=axes.transAxes, ha="center", va="top")
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
