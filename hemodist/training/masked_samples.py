"""Training samples that do not match their checksum and are masked out: found on any rank, named once."""

from __future__ import annotations

from collections.abc import Callable

from hemodist.config.run import Run
from hemodist.loading.sample_reader import Reader
from hemodist.world import World


class MaskedSamples:
    """What all ranks have masked out since the start; nothing unless `data.on_corrupt` is `mask`."""

    def __init__(self, run: Run, world: World, reader: Reader) -> None:
        """Know of none yet.

        Args:
            run: whether corrupt samples are masked out.
            world: the ranks.
            reader: this rank's, which finds them.
        """
        self._gathers = run.data.on_corrupt == "mask"
        self._world, self._reader = world, reader
        self._rows: set[int] = set()

    def __len__(self) -> int:
        """How many there are, as of the last `gather`."""
        return len(self._rows)

    def gather(self, warn: Callable[[str], None]) -> None:
        """Ask all ranks, which call it together, and name the new ones to `warn`."""
        if not self._gathers:
            return
        rows = set().union(*self._world.gather(self._reader.corrupt))
        for new in sorted(rows - self._rows):
            warn(f"{self._reader.describe(new)} does not match its checksum and is masked out")
        self._rows |= rows
