"""Whether the shards that are read at a time fit into a node's cache. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from hemodist.dataset.manifest import ShardInfo
from hemodist.errors import ConfigError


def check_cache_holds(shards: Sequence[ShardInfo], windows: Iterable[Sequence[int]], bound: int, where: str) -> None:
    """Check that each of some sets of shards fits into `bound` bytes.

    Raises:
        ConfigError: one does not; with the numbers and the remedy.
    """
    needed, count = max(((sum(shards[s].bytes for s in window), len(window)) for window in windows), default=(0, 0))
    if needed > bound:
        raise ConfigError(
            f"the copies of shards in {where} may take {bound / 1e9:.6f} GB, but {count} shards of together "
            f"{needed / 1e9:.6f} GB are read at a time; use data.cache_gb {math.ceil(needed / 1e3) / 1e6:.6f} or more "
            "on a disk that has it, or a smaller batch.block_shards"
        )
