"""What the curve of a learning-rate range test says, and whether it says anything.

The suggestions that people know are fast.ai's, by its definitions, on a smoothed curve without its first tenth and its
last five steps: valley, steepest and a tenth of the minimum.

What is used is the middle, on the logarithmic axis, of the bottom of the curve: of the rates around the lowest loss
where no more than `BOTTOM` of the fall of log(loss) is missing. The bottom is flat, so that its lowest point is chance
and its middle is not: over seeds the former varied by a factor of 4 and the latter by 1.4 (AlexNet). Against grids of
short trainings (least squares with SGD and AdamW, AlexNet) the valley was 4 to 20 times too small, since the sweep
gives each rate one step only, and the lowest loss up to 6 times too far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hemodist.config.range_test import FEWEST, RangeTest

F64 = npt.NDArray[np.float64]

BOTTOM = 0.3
"""Of the fall of log(loss), how much may be missing at a rate of the curve's bottom."""

_LAST = 5
"""Steps at the end that fast.ai leaves out, since the loss diverges there."""


@dataclass(frozen=True)
class Reading:
    """What a curve says.

    Attributes:
        failed: why no rate can be read off, with the remedy; empty where one can. The rates are None otherwise.
        lr: the one to use, the middle of the curve's bottom on a logarithmic axis.
        valley: half-way through the longest fall of the loss.
        steepest: where the loss falls fastest over log(lr).
        tenth: a tenth of the rate at the lowest loss.
    """

    failed: str
    lr: float | None = None
    valley: float | None = None
    steepest: float | None = None
    tenth: float | None = None


def smooth(losses: Sequence[float], width: float) -> F64:
    """A weighted geometric mean of each loss and its neighbours, float64 [n].

    Unlike fast.ai's exponential mean it looks both ways, so that it shifts nothing to higher rates.

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


def read_off(test: RangeTest, rates: Sequence[float], losses: Sequence[float]) -> Reading:
    """Read a curve.

    Args:
        test: its steps and smoothing; the curve may have fewer steps, where the loss has diverged.
        rates: of each step that was made, rising.
        losses: of each step, not smoothed.
    """
    smoothed = smooth(losses, test.smoothing) if losses else np.zeros(0)
    failed = why_failed(test, rates, smoothed)
    if failed:
        return Reading(failed)
    lowest = int(smoothed.argmin())
    part = slice(test.steps // 10, max(len(rates) - _LAST, lowest + 1))
    seen, values = np.asarray(rates)[part], smoothed[part]
    first, last = bottom(smoothed)
    middle = math.sqrt(rates[first] * rates[last])
    return Reading("", middle, valley(seen, values), steepest(seen, values), tenth_of_minimum(seen, values))


def why_failed(test: RangeTest, rates: Sequence[float], smoothed: F64) -> str:
    """Why a curve says nothing, with the remedy; empty where the loss fell, and then rose again out of its bottom.

    Args:
        test: its range and steps.
        rates: of each step that was made.
        smoothed: float64 [n], the loss of each.
    """
    made, more = len(smoothed), f"use more steps, such as --steps {2 * test.steps}"
    lowest = int(smoothed.argmin()) if made else 0
    if lowest < max(FEWEST, test.steps // 10 + 1):
        return (
            f"the loss did not fall between learning rates {test.lowest:g} and {test.highest:g}: it was lowest after "
            f"{lowest} of {made} steps; {more}, a smaller --lowest, or a larger --batch.global-batch-size"
        )
    if lowest == made - 1:
        how = "lowest at the last of"
    elif made == test.steps and bottom(smoothed)[1] == made - 1:  # with fewer steps it has diverged, which is a rise
        how = f"lowest at a learning rate of {rates[lowest]:.3g} and did not rise again within"
    else:
        return ""
    return f"the loss was {how} {made} steps, which ended at {rates[-1]:.3g}; {more}, or a higher --highest"


def bottom(smoothed: F64) -> tuple[int, int]:
    """First and last step around the lowest loss where no more than `BOTTOM` of the fall of log(loss) is missing."""
    logs, lowest = np.log(smoothed), int(smoothed.argmin())
    fall = float(np.median(logs[:FEWEST]) - logs[lowest])
    above = np.flatnonzero(logs - logs[lowest] > BOTTOM * fall)
    return int(above[above < lowest].max(initial=-1)) + 1, int(above[above > lowest].min(initial=len(logs))) - 1


def valley(rates: F64, losses: F64) -> float:
    """fast.ai's `valley`: half-way through the longest falling subsequence of the losses.

    The steps are counted back from its last one, a third and a half of a third of their number, each rounded down.

    Args:
        rates: float64 [n].
        losses: float64 [n], smoothed.
    """
    length = np.ones(len(losses), np.int64)  # of the longest falling subsequence that ends at a step
    for step in range(1, len(losses)):
        length[step] = 1 + length[:step][losses[:step] > losses[step]].max(initial=0)
    end, steps = int(length.argmax()), int(length.max())
    return float(rates[max(end - steps + steps // 3 + steps // 6, 0)])


def steepest(rates: F64, losses: F64) -> float:
    """fast.ai's `steep`: where the step to the next loss falls fastest over log(lr); arguments as `valley`."""
    return float(rates[int((np.diff(losses) / np.diff(np.log(rates))).argmin())])


def tenth_of_minimum(rates: F64, losses: F64) -> float:
    """fast.ai's `minimum`: a tenth of the rate at the lowest loss; arguments as `valley`."""
    return float(rates[int(losses.argmin())]) / 10
