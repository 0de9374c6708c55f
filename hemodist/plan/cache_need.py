"""Whether the shards that are read at a time fit into a node's cache. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from hemodist.dataset.manifest import ShardInfo
from hemodist.errors import ConfigError


def check_cache_holds(shards: Sequence[ShardInfo], at_once: Iterable[Sequence[int]], bound: int, where: str) -> None:
    """Check that a cache has room for every set of shards that is read at the same time.

    Args:
        shards: of the data set, by number.
        at_once: sets of shards, by number, as `Plan.shards_at_once` gives them.
        bound: bytes that the copies may take.
        where: folder of the cache, for the message.

    Raises:
        ConfigError: one does not; with the numbers and the remedy.
    """
    needed, count = max(((sum(shards[s].bytes for s in one), len(one)) for one in at_once), default=(0, 0))
    if needed > bound:
        raise ConfigError(
            f"the copies of shards in {where} may take {bound / 1e9:.6f} GB, but {count} shards of together "
            f"{needed / 1e9:.6f} GB are read at a time; use data.cache_gb {math.ceil(needed / 1e3) / 1e6:.6f} or more "
            "on a disk that has it, or a smaller batch.block_shards"
        )
