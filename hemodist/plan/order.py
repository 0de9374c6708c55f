"""Which sample is read at which global position: pure integer arithmetic.

Training reads an endless stream of positions 0, 1, 2, ... Position p belongs to epoch p // N and is the sample
`order(epoch)[p % N]`, where `order(epoch)` is a permutation of the N training samples keyed by (seed, epoch). Global
step s consumes the positions [s * G, (s + 1) * G). Nothing is padded, dropped or repeated: each sample exactly once an
epoch, for every N and G. The world size only decides who reads what: ranks take whole mix groups of the global batch,
as evenly as they go. So the state of the data plane is one number, the step.

The permutation is block-shuffled: shards in random order are joined into blocks of `block_shards`, and the samples of
a block are shuffled together, so that a node needs no more than two blocks of shards at a time. It is worked out a few
blocks at a time, so a plan costs next to nothing at the start and at the border of two epochs.

With weights, an epoch still is N positions, and sample i is read `N * w_i / sum(w)` times in it, rounded down or up:
`floor((C_i * N + u) / T) - floor((C_(i-1) * N + u) / T)` times, where C is the running sum of the weights in increasing
order, T their sum and u a number below T drawn for (seed, epoch) (systematic sampling: Madow & Madow, Ann. Math. Stat.
15, 1944). So the samples of one weight together get their share to less than one, the mean over many epochs is exact,
equal weights give each sample once, and no float decides anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hemodist.config.shares import check_batch, share_bounds
from hemodist.errors import ConfigError
from hemodist.plan.philox import Purpose, words

Ints = npt.NDArray[np.int64]

CHUNK = 16_384
"""Samples that are ordered at a time, at least, where there are so many: some milliseconds of work."""

KEPT_CHUNKS = 4
"""Chunks that are kept in memory. Two neighbours are in use at a time; the others spare working them out again."""

IN_FLIGHT = 4
"""Global batches that ranks may be reading at a time: they wait for each other at each step."""

LOOKED_AT = 50
"""Epochs of a run in which `Plan.shards_at_once` looks for the most shards that are read at a time."""


@dataclass(frozen=True)
class Share:
    """What one rank reads at one step.

    Attributes:
        rows: int64 [b], rows of the index.
        epochs: int64 [b], the epoch that each sample is read for.
        repeats: int64 [b], how often the epoch has read the sample before this; 0 everywhere without weights.
    """

    rows: Ints
    epochs: Ints
    repeats: Ints


@dataclass(frozen=True)
class NeededShards:
    """The shards that one batch and those after it need.

    Attributes:
        now: shards that the batch reads from; all others may be closed.
        later: those needed after them, the soonest first; each once.
    """

    now: tuple[int, ...]
    later: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Epoch:
    """The blocks of one epoch.

    Attributes:
        blocks: for each block its shards, as positions in the plan's list of shards.
        stops: int64 [blocks], positions of the epoch up to the end of each block; the last is N.
        chunks: int64 [chunks + 1], numbers of the blocks that begin a chunk, and the number of blocks.
        times: int64 [N], how often each sample is read; None for once each.
    """

    blocks: list[Ints]
    stops: Ints
    chunks: Ints
    times: Ints | None


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
        weights: int64 [N], 0 or more, how often each sample is read in proportion to the others; None for once each.

    Raises:
        ConfigError: the numbers cannot be dealt out.
    """

    rows: Ints
    shards: npt.NDArray[np.int32]
    seed: int
    global_batch_size: int
    mix_group: int
    block_shards: int
    weights: Ints | None = None
    _present: Ints = field(init=False, repr=False)  # the shards, increasing
    _bounds: Ints = field(init=False, repr=False)  # shard i of them holds the samples [_bounds[i], _bounds[i + 1])
    _epochs: dict[int, _Epoch] = field(default_factory=dict, init=False, repr=False)
    _chunks: dict[tuple[int, int], tuple[Ints, Ints]] = field(default_factory=dict, init=False, repr=False)
    _needed: dict[tuple[int | None, ...], NeededShards] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_batch(self.global_batch_size, self.mix_group, world=1)
        if self.block_shards < 1:
            raise ConfigError(f"block_shards {self.block_shards} is not positive; 16 is usual")
        if not len(self.rows) or len(self.rows) != len(self.shards):
            raise ConfigError(f"a plan needs samples: {len(self.rows)} rows and {len(self.shards)} shards given")
        if (np.diff(self.shards) < 0).any() or (np.diff(self.rows) <= 0).any():
            raise ConfigError("a plan needs increasing rows in shard order; sort them and drop repeated ones")
        if self.weights is not None:
            _check_weights(self.weights, len(self.rows))
        present, first = np.unique(self.shards, return_index=True)
        object.__setattr__(self, "_present", present.astype(np.int64))
        object.__setattr__(self, "_bounds", np.append(first, len(self.rows)).astype(np.int64))

    def order(self, epoch: int) -> Ints:
        """All N rows of an epoch in the order of reading: int64 [N]; without weights a permutation."""
        chunks = range(len(self._epoch(epoch).chunks) - 1)
        return np.concatenate([self._chunk(epoch, number)[0] for number in chunks])

    def shard_order(self, epoch: int) -> list[int]:
        """The shards that the epoch reads, block by block."""
        return self._named(self._epoch(epoch).blocks)

    def at(self, step: int, rank: int = 0, world: int = 1) -> Share:
        """What `rank` of `world` reads at global step `step`; a pure function of its arguments.

        With rank 0 of 1 this is the whole global batch, and the shares of the ranks, joined in order, are equal to it.
        """
        start, stop = share_bounds(self.global_batch_size, self.mix_group, rank, world)
        first = step * self.global_batch_size + start
        share = Share(*np.empty((3, stop - start), np.int64))
        filled = 0
        while filled < stop - start:  # a chunk at a time
            epoch, offset = divmod(first + filled, len(self.rows))
            blocks = self._epoch(epoch)
            block = int(np.searchsorted(blocks.stops, offset, side="right"))
            number = int(np.searchsorted(blocks.chunks, block, side="right")) - 1
            rows, repeats = self._chunk(epoch, number)
            begin = offset - int(blocks.stops[blocks.chunks[number] - 1] if number else 0)
            taken = min(len(rows) - begin, stop - start - filled)
            here = slice(filled, filled + taken)
            share.rows[here], share.repeats[here] = rows[begin : begin + taken], repeats[begin : begin + taken]
            share.epochs[here] = epoch
            filled += taken
        return share

    def steps(self, epochs: int) -> int:
        """Number of steps after which `epochs` whole epochs have been read: ceil(epochs * N / G)."""
        return -(-epochs * len(self.rows) // self.global_batch_size)

    def needed_shards(self, step: int, epochs: int | None = None) -> NeededShards:
        """The shards that the global batch `step` and its successors need; the same object within a block.

        Args:
            step: the global step.
            epochs: of the whole run; nothing is needed after them. None for a run without an end.
        """
        first = step * self.global_batch_size
        begin, end = self._block_of(first), self._block_of(first + self.global_batch_size - 1)
        key = (*begin, *end, epochs)
        if key not in self._needed:
            now = [
                shard
                for epoch in range(begin[0], end[0] + 1)
                for shard in self._named(
                    self._epoch(epoch).blocks[
                        begin[1] if epoch == begin[0] else 0 : end[1] + 1 if epoch == end[0] else None
                    ]
                )
            ]
            later = []
            if epochs is None or end[0] < epochs:
                later += self._named(self._epoch(end[0]).blocks[end[1] + 1 :])
            if epochs is None or end[0] + 1 < epochs:
                later += self.shard_order(end[0] + 1)
            needed = dict.fromkeys(now)
            self._needed.clear()
            self._needed[key] = NeededShards(
                tuple(needed), tuple(shard for shard in dict.fromkeys(later) if shard not in needed)
            )
        return self._needed[key]

    def shards_at_once(self, epochs: int, prefetch: int = 0) -> Iterator[list[int]]:
        """The shards that ranks on one node read at a time, seen from the end of each block of a run.

        Args:
            epochs: of the run; what its last batch reads of another one is seen too. Only `LOOKED_AT` are looked at.
            prefetch: batches that a rank prepares ahead.
        """
        samples = max(IN_FLIGHT, prefetch + 2) * self.global_batch_size
        blocks, ends = list[Ints](), list[Ints]()
        for epoch in range(min(epochs, LOOKED_AT) + 1):
            part = self._divide(epoch)
            blocks += part.blocks
            ends.append(part.stops + epoch * len(self.rows))
        stops = np.concatenate(ends)
        for number, stop in enumerate(stops):
            last = int(np.searchsorted(stops, stop - 1 + samples - 1, side="right"))
            yield list(dict.fromkeys(self._named(blocks[number : last + 1])))

    def _block_of(self, position: int) -> tuple[int, int]:
        epoch, offset = divmod(position, len(self.rows))
        return epoch, int(np.searchsorted(self._epoch(epoch).stops, offset, side="right"))

    def _named(self, blocks: list[Ints]) -> list[int]:
        return [int(shard) for block in blocks for shard in self._present[block]]

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            while len(self._epochs) >= 3:
                del self._epochs[next(iter(self._epochs))]
            self._epochs[epoch] = self._divide(epoch)
        return self._epochs[epoch]

    def _divide(self, epoch: int) -> _Epoch:
        # One 64-bit key each; ties, were there any, fall back to the shard's own order since the sort is stable.
        shuffled = np.argsort(_keys(self.seed, epoch, 0, self._present), kind="stable")
        times = None
        held = np.diff(self._bounds)
        if self.weights is not None:
            times = self._times_drawn(epoch, self.weights)
            held = np.add.reduceat(times, self._bounds[:-1])
            shuffled = shuffled[held[shuffled] > 0]  # an epoch may draw nothing of a shard
        blocks = [shuffled[i : i + self.block_shards] for i in range(0, len(shuffled), self.block_shards)]
        stops = np.cumsum([int(held[block].sum()) for block in blocks])
        chunks = [0]
        for number in range(1, len(blocks)):
            if stops[number - 1] - (stops[chunks[-1] - 1] if chunks[-1] else 0) >= CHUNK:
                chunks.append(number)
        return _Epoch(blocks, stops, np.array([*chunks, len(blocks)]), times)

    def _times_drawn(self, epoch: int, weights: Ints) -> Ints:
        """How often the epoch reads each sample: int64 [N], N in all."""
        total, order = int(weights.sum()), np.argsort(weights, kind="stable")
        word = words(self.seed, Purpose.SAMPLE, epoch)[0]
        offset = (int(word[0]) << 32 | int(word[1])) % total
        times = np.empty_like(weights)
        times[order] = np.diff((np.cumsum(weights[order]) * len(weights) + offset) // total, prepend=0)
        return times

    def _chunk(self, epoch: int, number: int) -> tuple[Ints, Ints]:
        """Rows and repeats of the samples of some blocks, in the order of reading."""
        if (epoch, number) not in self._chunks:
            while len(self._chunks) >= KEPT_CHUNKS:
                del self._chunks[next(iter(self._chunks))]
            self._chunks[epoch, number] = self._order_of(epoch, number)
        return self._chunks[epoch, number]

    def _order_of(self, epoch: int, number: int) -> tuple[Ints, Ints]:
        part = self._epoch(epoch)
        blocks = part.blocks[part.chunks[number] : part.chunks[number + 1]]
        places = [(np.arange(*self._bounds[s : s + 2]), b) for b, block in enumerate(blocks) for s in block]
        samples = np.concatenate([place for place, _ in places])
        block = np.repeat([b for _, b in places], [len(place) for place, _ in places])
        repeats = np.zeros_like(samples)
        if part.times is not None:
            times = part.times[samples]
            first = np.repeat(np.cumsum(times) - times, times)
            samples, block = np.repeat(samples, times), np.repeat(block, times)
            repeats = np.arange(len(samples)) - first
        order = np.lexsort((_keys(self.seed, epoch, 1 + repeats, self.rows[samples]), block))
        return self.rows[samples[order]], repeats[order]


def _check_weights(weights: Ints, samples: int) -> None:
    """Check that the arithmetic of drawing is exact: no sum of it leaves 63 bits."""
    if len(weights) != samples or weights.min() < 0 or not weights.any():
        raise ConfigError(
            f"{len(weights)} weights from {weights.min()} to {weights.max()} given for {samples} samples; "
            "a plan needs one a sample, 0 or more, and not all 0"
        )
    if int(weights.max()) * samples >= 2**62 or (int(weights.sum()) + 1) * samples >= 2**62:
        raise ConfigError(f"weights of sum {int(weights.sum())} are too large for {samples} samples; scale them down")


def _keys(seed: int, epoch: int, level: int | Ints, items: npt.NDArray[np.integer]) -> npt.NDArray[np.uint64]:
    drawn = words(seed, Purpose.ORDER, items, epoch, level).astype(np.uint64)
    return drawn[:, 0] << np.uint64(32) | drawn[:, 1]
