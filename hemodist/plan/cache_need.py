"""Whether a node's cache can hold the shards that are read at the same time. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from hemodist.dataset.manifest import ShardInfo
from hemodist.errors import ConfigError


def check_cache_holds(shards: Sequence[ShardInfo], at_once: Iterable[Sequence[int]], capacity: int, where: str) -> None:
    """Check that a cache can hold each of some sets of shards.

    Args:
        shards: of the data set, with their sizes.
        at_once: each a set of shards that are read at the same time, by their numbers.
        capacity: bytes that the cache may take.
        where: its folder, for the message.

    Raises:
        ConfigError: a set does not fit; with the numbers and the remedy.
    """
    needed, count = max(((sum(shards[s].bytes for s in numbers), len(numbers)) for numbers in at_once), default=(0, 0))
    if needed > capacity:
        raise ConfigError(
            f"the copies of shards in {where} may take {capacity / 1e9:.6f} GB, but {count} shards of together "
            f"{needed / 1e9:.6f} GB are read at a time; use data.cache_gb {math.ceil(needed / 1e3) / 1e6:.6f} or more "
            "on a disk that has it, or a smaller batch.block_shards"
        )
