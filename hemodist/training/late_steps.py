"""Steps that were made and that nobody has looked at: what the host learns of a step, it learns two steps later.

By then the device is long done with the step, and has been given the work of the next ones.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hemodist.training.gradient import Exchange
from hemodist.training.learner import Update
from hemodist.training.throughput import Throughput
from hemodist.world import HostCopy

BEHIND = 2
"""Steps that the host may be ahead of what it has looked at; as many batches more stay in the device's memory."""


@dataclass(frozen=True)
class LateStep:
    """A step, as it can be looked at.

    Attributes:
        number: of the step.
        rows: int64 [b], of the index; this rank's share.
        lr: its learning rate.
        skipped: whether no update was made.
        gradient_norm: before clipping.
        sums: what was added for the log; empty where the step is not logged.
    """

    number: int
    rows: npt.NDArray[np.int64]
    lr: float
    skipped: bool
    gradient_norm: float
    sums: tuple[float, ...]


class LateSteps:
    """The last steps, of which the figures are on their way from the device."""

    def __init__(self, throughput: Throughput) -> None:
        """None yet.

        Args:
            throughput: measures how long the host waits for the device, and the device for the other ranks.
        """
        self._throughput = throughput
        self._made = deque[tuple[int, npt.NDArray[np.int64], float, HostCopy, Exchange]]()

    def add(self, number: int, rows: npt.NDArray[np.int64], lr: float, update: Update, sums: torch.Tensor) -> None:
        """Add a step.

        Args:
            number: of the step.
            rows: int64 [b], of the index.
            lr: its learning rate.
            update: what it has found.
            sums: of all ranks, for the log; float [any] on the device.
        """
        figures = torch.cat([torch.stack([update.skipped.to(sums.dtype), update.gradient_norm.to(sums.dtype)]), sums])
        self._made.append((number, rows, lr, HostCopy(figures), update.exchange))

    def next(self, *, behind: int = BEHIND) -> LateStep | None:
        """The oldest step, taken out; None where no more than `behind` are left. Waits until its figures are here."""
        if len(self._made) <= behind:
            return None
        number, rows, lr, figures, exchange = self._made.popleft()
        with self._throughput.waiting("device"):
            skipped, norm, *sums = figures.read().tolist()
        self._throughput.exchanged(exchange.seconds())
        return LateStep(number, rows, lr, bool(skipped), norm, tuple(sums))
