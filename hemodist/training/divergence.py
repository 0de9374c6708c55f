"""Steps whose gradient is not finite: how many there were, and when a run is ended for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hemodist.config.run import Run
from hemodist.errors import UserError
from hemodist.plan.prepare import Prepared
from hemodist.training.run_state import RunState
from hemodist.world import World


class DivergedError(UserError):
    """The run no longer learns: gradients, batch statistics or outputs are not finite."""


class Divergence:
    """Counts the steps that were made without an update.

    Attributes:
        nonfinite: steps in a row, up to now, whose gradient was not finite.
        skipped: such steps in the whole run.
    """

    def __init__(self, run: Run, prepared: Prepared, world: World, state: RunState) -> None:
        """Go on counting.

        Args:
            run: how many such steps in a row are too many.
            prepared: the names of the samples.
            world: the ranks.
            state: the counts so far.
        """
        self._run, self._prepared, self._world = run, prepared, world
        self.nonfinite, self.skipped = state.nonfinite, state.skipped

    def count(
        self, step: int, rows: npt.NDArray[np.int64], network: nn.Module, warn: Callable[[str], None], *, skipped: bool
    ) -> None:
        """Count a step, once it is known how it went. All ranks come here together, and leave by the same way.

        Args:
            step: its number.
            rows: int64 [b], of the index; this rank's share of the step's samples.
            network: whose batch statistics may have been spoiled, in that step or since.
            warn: told which samples they were.
            skipped: whether no update was made, since the gradient was not finite.

        Raises:
            DivergedError: batch statistics are spoiled for good, or there were too many such steps in a row.
        """
        if not skipped:
            self.nonfinite = 0
            return
        self.nonfinite, self.skipped = self.nonfinite + 1, self.skipped + 1
        # Rank 0's statistics are those that are saved and scored.
        if not self._world.broadcast(all(bool(torch.isfinite(buffer).all()) for buffer in network.buffers())):
            raise DivergedError(
                f"step {step}: the forward pass has made batch statistics non-finite, which no later step "
                f"mends; lower optim.lr (now {self._run.optim.peak:g}) or set optim.clip_norm, under another name"
            )
        of_all = np.concatenate(self._world.gather(rows))
        keys = self._prepared.dataset.index.column("key").take(of_all).to_pylist()
        listed = ", ".join(keys[:8]) + (" ..." if len(keys) > 8 else "")
        warn(f"step {step}: the gradient is not finite, no update was made; samples {listed}")
        if self.nonfinite >= self._run.optim.max_nonfinite:
            raise DivergedError(
                f"the gradient was not finite for {self.nonfinite} steps in a row, up to step {step}; "
                f"lower optim.lr (now {self._run.optim.peak:g}) or set optim.clip_norm; the last samples were {listed}"
            )
