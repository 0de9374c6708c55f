from __future__ import annotations

import numpy as np
import pytest

from hemodist.plan.philox import Purpose, philox, uniform, words

# Known answers published with the generator (Random123, philox4x32-10): counter, key, output.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_the_generator_gives_the_published_answers(counter, key, expected):
    assert tuple(philox(np.array([counter], np.uint64), key)[0]) == expected


def test_a_draw_depends_on_its_own_counter_only():
    together = words(3, Purpose.AUGMENT, np.arange(10), 5)
    alone = words(3, Purpose.AUGMENT, np.array([7]), 5)
    assert np.array_equal(together[7], alone[0])


def test_seed_purpose_and_block_each_change_the_draw():
    base = words(1, Purpose.ORDER, np.arange(4))
    others = [words(2, Purpose.ORDER, np.arange(4)), words(1, Purpose.MIX, np.arange(4)),
              words(1, Purpose.ORDER, np.arange(4), block=1)]  # fmt: skip
    assert all(not (base == other).any() for other in others)


def test_uniform_numbers_are_uniform_and_never_zero_or_one():
    drawn = uniform(words(0, Purpose.AUGMENT, np.arange(100_000))).ravel()
    assert 0 < drawn.min() < drawn.max() < 1
    counts, _ = np.histogram(drawn, bins=50, range=(0, 1))
    chi_square = float(((counts - 8000) ** 2 / 8000).sum())
    assert chi_square < 90  # 49 degrees of freedom: exceeded once in 3,000 seeds
    assert uniform(np.array([0, 2**32 - 1], np.uint32)).tolist() == [2.0**-33, 1 - 2.0**-33]


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match="out of range"):
        words(seed, Purpose.ORDER, [0])
