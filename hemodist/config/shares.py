"""How a global batch, or a split, is dealt out to ranks: pure integer arithmetic."""

from __future__ import annotations

from hemodist.errors import ConfigError


def share_bounds(global_batch_size: int, mix_group: int, rank: int, world: int) -> tuple[int, int]:
    """A rank's samples within the global batch, [start, stop): whole mix groups, as evenly as they go.

    >>> [share_bounds(48, 8, rank, 4) for rank in range(4)]
    [(0, 8), (8, 24), (24, 32), (32, 48)]
    """
    groups = global_batch_size // mix_group
    return groups * rank // world * mix_group, groups * (rank + 1) // world * mix_group


def uneven(global_batch_size: int, mix_group: int, world: int) -> str:
    """What to say where the largest share is well above the mean, since a step lasts as long as it; else empty.

    >>> uneven(2048, 8, 63)
    'some workers have 40 instead of 32.5 images a step, so a step takes 1.23 times as long; mix_group 4 would give 36'
    >>> uneven(2048, 8, 64)
    ''
    """
    mean = global_batch_size / world
    largest = -(-global_batch_size // mix_group // world) * mix_group
    if largest <= 1.1 * mean:
        return ""
    half = mix_group // 2
    less = -(-global_batch_size // half // world) * half if mix_group % 2 == 0 else largest
    remedy = f"; mix_group {half} would give {less}" if less < largest else ""
    return (
        f"some workers have {largest} instead of {mean:.3g} images a step, "
        f"so a step takes {largest / mean:.3g} times as long{remedy}"
    )


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
