"""Random numbers as a pure function: Philox 4x32-10, vectorised over counters.

A counter-based generator has no state: the number drawn for (seed, purpose, epoch, sample) is the same on every worker,
in every process and after every restart. Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011 (constants and number of rounds from there).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = 0x9E3779B9
_WEYL_1 = 0xBB67AE85
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


class Purpose(IntEnum):
    """What a draw is for; part of the key, so that no two purposes share numbers."""

    ORDER = 1
    AUGMENT = 2
    MIX = 3
    FOLD = 4
    NETWORK = 5
    SAMPLE = 6


def words(seed: int, purpose: Purpose, *counter: npt.ArrayLike, block: int = 0) -> npt.NDArray[np.uint32]:
    """Four independent uniform 32-bit words for each counter.

    Args:
        seed: of the run, 0 to 2**31 - 1.
        purpose: what the words are for.
        counter: one to three arrays of integers (0 to 2**32 - 1) that broadcast to one shape [n].
        block: number of the group of four words, for a draw that needs more than four.

    Returns:
        uint32 [n, 4].

    Raises:
        ValueError: the seed is out of range or there are more than three counters.

    >>> words(0, Purpose.ORDER, [0, 1]).shape
    (2, 4)
    """
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed {seed} is out of range; use 0 to {2**31 - 1}")
    if not 1 <= len(counter) <= 3:
        raise ValueError(f"{len(counter)} counters given; Philox 4x32 takes one to three here")
    lanes = np.broadcast_arrays(*(np.atleast_1d(np.asarray(c)).astype(np.uint64) for c in counter))
    zeros = np.zeros_like(lanes[0])
    padded = [*lanes, *[zeros] * (3 - len(lanes)), zeros + np.uint64(block)]
    return philox(np.stack(padded, axis=-1), (seed, int(purpose)))


def uniform(drawn: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    """Words as numbers in the open interval (0, 1), never 0 or 1: (word + 1/2) / 2**32."""
    result: npt.NDArray[np.float64] = (drawn.astype(np.float64) + 0.5) * 2.0**-32
    return result


def philox(counters: npt.NDArray[np.uint64], key: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """The block function.

    Args:
        counters: uint64 [n, 4], each below 2**32.
        key: two 32-bit words.

    Returns:
        uint32 [n, 4].
    """
    c0, c1, c2, c3 = (counters[:, i] for i in range(4))
    k0, k1 = key
    for _ in range(_ROUNDS):
        product_0 = c0 * _MULTIPLIER_0
        product_1 = c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            (product_1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            product_1 & _LOW,
            (product_0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            product_0 & _LOW,
        )
        k0 = (k0 + _WEYL_0) & 0xFFFFFFFF
        k1 = (k1 + _WEYL_1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)
