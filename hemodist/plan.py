"""Which sample is read at which global position: pure integer arithmetic.

Training reads an endless stream of positions 0, 1, 2, ... Position p belongs to epoch p // N and is the sample
`order(epoch)[p % N]`, where `order(epoch)` is a permutation of the N training samples keyed by (seed, epoch). Global
step s consumes the positions [s * G, (s + 1) * G). Nothing is padded, dropped or repeated: each sample exactly once an
epoch, for every N and G. The world size only decides who reads what: ranks take whole mix groups of the global batch,
as evenly as they go. So the state of the data plane is one number, the step.

The permutation is block-shuffled: shards in random order are joined into blocks of `block_shards`, and the samples of
a block are shuffled together, so that a node needs no more than two blocks of shards at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hemodist.errors import ConfigError
from hemodist.philox import Purpose, words

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """What one rank reads at one step.

    Attributes:
        rows: int64 [b], rows of the index.
        epochs: int64 [b], the epoch that each sample is read for.
    """

    rows: Ints
    epochs: Ints


@dataclass(frozen=True, eq=False)
class Plan:
    """The order of training.

    Attributes:
        rows: int64 [N], rows of the index that train, increasing, so in shard order.
        shards: int32 [N], the shard of each.
        seed: of the run.
        global_batch_size: G, samples a step over all ranks.
        mix_group: consecutive samples of the global batch that CutMix may mix; divides G, and a rank's share is a
            whole number of groups.
        block_shards: shards that are shuffled together.

    Raises:
        ConfigError: the numbers cannot be dealt out.
    """

    rows: Ints
    shards: npt.NDArray[np.int32]
    seed: int
    global_batch_size: int
    mix_group: int
    block_shards: int
    _orders: dict[int, Ints] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_batch(self.global_batch_size, self.mix_group, world=1)
        if self.block_shards < 1:
            raise ConfigError(f"block_shards {self.block_shards} is not positive; 16 is usual")
        if not len(self.rows) or len(self.rows) != len(self.shards):
            raise ConfigError(f"a plan needs samples: {len(self.rows)} rows and {len(self.shards)} shards given")

    def order(self, epoch: int) -> Ints:
        """The epoch's permutation: int64 [N] of rows. The last three asked for are kept."""
        if epoch not in self._orders:
            while len(self._orders) >= 3:
                del self._orders[next(iter(self._orders))]
            self._orders[epoch] = self._permute(epoch)
        return self._orders[epoch]

    def shard_order(self, epoch: int) -> list[int]:
        """The shards in the order in which the epoch first needs them."""
        order = self.order(epoch)
        needed, first = np.unique(self.shards[np.searchsorted(self.rows, order)], return_index=True)
        shards: list[int] = needed[np.argsort(first)].tolist()
        return shards

    def _permute(self, epoch: int) -> Ints:
        present = np.unique(self.shards)
        # One 64-bit key each; ties, were there any, fall back to the sample's own order since the sorts are stable.
        shuffled = present[np.argsort(_keys(self.seed, epoch, 0, present), kind="stable")]
        block = np.empty(int(present[-1]) + 1, np.int64)
        block[shuffled] = np.arange(len(shuffled)) // self.block_shards
        return self.rows[np.lexsort((_keys(self.seed, epoch, 1, self.rows), block[self.shards]))]

    def at(self, step: int, rank: int = 0, world: int = 1) -> Share:
        """What `rank` of `world` reads at global step `step`; a pure function of its arguments.

        With rank 0 of 1 this is the whole global batch, and the shares of the ranks, joined in order, are equal to it.
        """
        start, stop = share_bounds(self.global_batch_size, self.mix_group, rank, world)
        first = step * self.global_batch_size + start
        epochs, offsets = np.divmod(np.arange(first, first + stop - start, dtype=np.int64), len(self.rows))
        rows = np.empty_like(offsets)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = self.order(int(epoch))[offsets[chosen]]
        return Share(rows, epochs)

    def steps(self, epochs: int) -> int:
        """Number of steps after which `epochs` whole epochs have been read: ceil(epochs * N / G)."""
        return -(-epochs * len(self.rows) // self.global_batch_size)


def share_bounds(global_batch_size: int, mix_group: int, rank: int, world: int) -> tuple[int, int]:
    """A rank's samples within the global batch, [start, stop): whole mix groups, as evenly as they go.

    >>> [share_bounds(48, 8, rank, 4) for rank in range(4)]
    [(0, 8), (8, 24), (24, 32), (32, 48)]
    """
    groups = global_batch_size // mix_group
    return groups * rank // world * mix_group, groups * (rank + 1) // world * mix_group


def eval_bounds(samples: int, rank: int, world: int) -> tuple[int, int]:
    """A rank's contiguous part [start, stop) of `samples` validation samples; every sample on exactly one rank."""
    return samples * rank // world, samples * (rank + 1) // world


def check_batch(global_batch_size: int, mix_group: int, world: int) -> None:
    """Check that a global batch can be dealt out to `world` ranks.

    Raises:
        ConfigError: naming the nearest sizes that work.
    """
    if mix_group < 1 or global_batch_size < 1:
        raise ConfigError(
            f"global_batch_size {global_batch_size} and mix_group {mix_group} must be positive; 64 and 16 are usual"
        )
    if global_batch_size % mix_group:
        below = global_batch_size // mix_group * mix_group
        nearest = " or ".join(str(size) for size in (below, below + mix_group) if size)
        raise ConfigError(
            f"global_batch_size {global_batch_size} is not a multiple of mix_group {mix_group}; use {nearest}"
        )
    if global_batch_size // mix_group < world:
        raise ConfigError(
            f"global_batch_size {global_batch_size} holds {global_batch_size // mix_group} mix groups of {mix_group}, "
            f"too few for {world} workers; use global_batch_size {mix_group * world} or more, "
            f"a smaller mix_group, or {global_batch_size // mix_group} workers"
        )


def _keys(seed: int, epoch: int, level: int, items: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    drawn = words(seed, Purpose.ORDER, items, epoch, level).astype(np.uint64)
    return drawn[:, 0] << np.uint64(32) | drawn[:, 1]
