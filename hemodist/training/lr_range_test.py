"""Leslie Smith's learning-rate range test on the real loader and ranks ("Cyclical Learning Rates", WACV 2017, 3.3).

The learning rate rises exponentially from step to step; where the loss falls fastest, training is fast, and where it
turns up, it is about to diverge. The plot of loss against log(lr) and the valley come from fast.ai. What is used is the
middle, on the logarithmic axis, of the bottom of the curve: of the rates around the lowest loss where no more than
`BOTTOM` of the fall of log(loss) is missing. The bottom is flat, so that its lowest point is chance and its middle is
not: over seeds the former varied by a factor of 4 and the latter by 1.4 (AlexNet). Against grids of short trainings
(least squares with SGD and AdamW, AlexNet) the valley was 4 to 20 times too small, since the sweep gives each rate one
step only, and the lowest loss up to 6 times too far.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from hemodist.config.range_test import FEWEST, RangeTest
from hemodist.errors import ConfigError
from hemodist.events import Tell
from hemodist.plan.prepare import prepare
from hemodist.storage.store import Store, join
from hemodist.training.divergence import DivergedError
from hemodist.training.found_lr import FOLDER, PLOT, RESULT, FoundLr, origin_of
from hemodist.training.loop import Training
from hemodist.world import World

F64 = npt.NDArray[np.float64]

BOTTOM = 0.3
"""Of the fall of log(loss), how much may be missing at a rate of the curve's bottom."""


def run_range_test(test: RangeTest, world: World, tell: Tell) -> FoundLr | None:
    """Make the test on every rank; rank 0 writes result and plot below the run, and returns the result.

    Raises:
        UserError: the configuration cannot work, or the loss never fell.
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
    found = read_off(test, rates, losses)
    result = FoundLr(*found, rates, losses, smooth(losses, test.smoothing).tolist(), origin_of(test.run, prepared))
    plot = draw(result, test.run.name)
    store = Store.open(join(test.run.output, test.run.name))
    store.write(PLOT, plot)
    training.run_log.picture("loss against learning rate", np.asarray(Image.open(io.BytesIO(plot)).convert("RGB")))
    training.run_log.close({"lr": result.lr, "lr_steepest": result.steepest, "lr_valley": result.valley})
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


def smooth(losses: Sequence[float], width: float) -> F64:
    """A weighted geometric mean of each loss and its neighbours, float64 [n].

    Args:
        losses: positive.
        width: standard deviation of the Gaussian weights in steps; cut off after three.
    """
    reach = int(3 * width)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    logs = np.pad(np.log(np.maximum(losses, 1e-12)), reach)
    present = np.pad(np.ones(len(losses)), reach)
    means: F64 = np.convolve(logs, weights, "valid") / np.convolve(present, weights, "valid")
    smoothed: F64 = np.exp(means)
    return smoothed


def read_off(test: RangeTest, rates: Sequence[float], losses: Sequence[float]) -> tuple[float, float, float, float]:
    """The learning rate to use (the middle of the bottom), the steepest, the valley and the one at the lowest loss.

    Raises:
        ConfigError: the loss never fell clearly, so that there is nothing to read.
    """
    smoothed = smooth(losses, test.smoothing) if losses else np.zeros(1)
    lowest = int(smoothed.argmin())
    if lowest < FEWEST:
        raise ConfigError(
            f"the loss did not fall between learning rates {test.lowest:g} and {test.highest:g}: it was lowest after "
            f"{lowest} of {len(losses)} steps; use a smaller lowest, more steps, or a larger batch"
        )
    slope = np.gradient(np.log(smoothed[: lowest + 1]), np.log(rates[: lowest + 1]))
    # The first values are means of few losses, so that a fall between them is chance.
    skipped = min(int(test.smoothing), FEWEST // 2)
    steepest = rates[skipped + int(slope[skipped:].argmin())]
    start, end = longest_fall(smoothed)
    valley = rates[start + (end - start) * 2 // 3]
    logs = np.log(smoothed)
    missing = (logs - logs[lowest]) / (np.median(logs[:FEWEST]) - logs[lowest])
    above = np.flatnonzero(missing > BOTTOM)
    first = above[above < lowest].max(initial=-1) + 1
    last = above[above > lowest].min(initial=len(rates)) - 1
    return math.sqrt(rates[first] * rates[last]), steepest, valley, rates[lowest]


def longest_fall(values: F64) -> tuple[int, int]:
    """First and last index of the longest strictly falling subsequence (fast.ai's `valley` takes it)."""
    length = np.ones(len(values), np.int64)
    before = np.full(len(values), -1)
    for i in range(1, len(values)):
        higher = np.flatnonzero(values[:i] > values[i])
        if len(higher):
            before[i] = higher[length[higher].argmax()]
            length[i] = length[before[i]] + 1
    end = start = int(length.argmax())
    while before[start] >= 0:
        start = int(before[start])
    return start, end


def draw(found: FoundLr, title: str) -> bytes:
    """Loss against learning rate as PNG, with steepest and valley marked."""
    figure = Figure(figsize=(8, 5), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, color="#bbbbbb", linewidth=0.8, label="loss of a step")
    axes.plot(found.rates, found.smoothed, color="#1f78b4", linewidth=2, label="smoothed")
    heights = np.interp(
        np.log([found.steepest, found.valley, found.lowest, found.lr]), np.log(found.rates), found.smoothed
    )
    marks = (
        ("steepest", "#d95f02", "v"),
        ("valley", "#1b9e77", "o"),
        ("lowest", "#7570b3", "s"),
        ("used", "#111111", "*"),
    )
    for (name, color, marker), lr, height in zip(
        marks, (found.steepest, found.valley, found.lowest, found.lr), heights, strict=True
    ):
        axes.plot([lr], [height], marker, color=color, markersize=10, label=f"{name} {lr:.2g}")
        axes.axvline(lr, color=color, linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss (nats)")
    low, high = min(found.smoothed), max(found.smoothed[: max(len(found.smoothed) // 2, 1)])
    axes.set_ylim(low - 0.15 * (high - low), high + 0.6 * (high - low))  # the divergence would flatten the rest
    axes.set_title(f"Learning-rate range test of {title}")
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
