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
        self._found = 0

    def __len__(self) -> int:
        """How many there are, as of the last `gather`."""
        return len(self._rows)

    def found_here(self) -> int:
        """How many this rank has found."""
        return len(self._reader.corrupt)

    def gather(self, found: int, warn: Callable[[str], None]) -> None:
        """Ask all ranks where there are new ones, and name these to `warn`.

        Args:
            found: the sum of `found_here` over all ranks, so that they call this together and ask alike.
            warn: told.
        """
        if not self._gathers or found == self._found:
            return
        self._found = found
        rows = set().union(*self._world.gather(self._reader.corrupt.copy()))
        for new in sorted(rows - self._rows):
            warn(f"{self._reader.describe(new)} does not match its checksum and is masked out")
        self._rows |= rows
