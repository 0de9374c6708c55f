"""What a learning rate range test tries (`training.lr_range_test`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from hemodist.config.fields import Often
from hemodist.config.run import Run
from hemodist.errors import ConfigError

FEWEST = 10
"""Steps before the loss has risen, below which nothing can be read off a curve."""


@dataclass(frozen=True)
class RangeTest:
    """What is to be tried."""

    run: Run
    """The configuration; its `optim.lr` is not looked at."""

    lowest: Annotated[float, Often()] = 1e-7
    """First learning rate."""

    highest: Annotated[float, Often()] = 10.0
    """Last learning rate, unless the loss diverges before; by default fast.ai's."""

    steps: Annotated[int, Often()] = 150
    """Steps from the one to the other."""

    smoothing: float = 5.0
    """Standard deviation in steps of the Gaussian that the logarithm of the loss is averaged with."""

    diverged: float = 3.0
    """The test ends where the smoothed loss is this many times its lowest."""


def check(test: RangeTest) -> None:
    """Check the numbers.

    Raises:
        ConfigError: naming the field and what works.
    """
    if not 0 < test.lowest < test.highest <= 100:
        raise ConfigError(f"lowest {test.lowest:g} and highest {test.highest:g}: use 0 < lowest < highest <= 100")
    steps = 2 * FEWEST <= test.steps <= 10**6
    if not (steps and 0.5 <= test.smoothing <= test.steps / 4 and 1 < test.diverged < math.inf):
        raise ConfigError(
            f"steps {test.steps}, smoothing {test.smoothing:g}, diverged {test.diverged:g}: use {2 * FEWEST} to a "
            f"million steps, a smoothing from 0.5 to a quarter of the steps ({test.steps / 4:g}), and diverged above 1"
        )
