"""What the network sees belongs to the step, whoever reads it and however often the run was killed."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hemodist.config.data import AugmentConfig, MixConfig
from hemodist.plan.order import Plan
from hemodist.plan.stream import Stream

STRONG = AugmentConfig(0.5, 0.5, 0.5, 0.5, 20.0, 0.1, 0.2)


def stream_of(n: int, groups: int, mix_group: int, seed: int, kind: str, *, weigh: bool = False) -> Stream:
    """A new one each time, as a process that has just been started makes it."""
    rows = np.arange(n, dtype=np.int64) * 3
    weights = 1 + np.arange(n, dtype=np.int64) % 4 if weigh else None
    plan = Plan(rows, (np.arange(n) // 37).astype(np.int32), seed, groups * mix_group, mix_group, 3, weights)
    return Stream(plan, STRONG, MixConfig(kind, probability=0.7, alpha=0.8), 64)  # type: ignore[arg-type]


def seen(stream: Stream, step: int, world: int) -> list[np.ndarray]:
    """Of every sample of the global batch: row, epoch, copy, augmentation; partner, box and lambda of its group."""
    shares = [stream.at(step, rank, world) for rank in range(world)]
    mixes = [stream.mix_at(step, rank, world) for rank in range(world)]
    group = stream.plan.mix_group
    partners = []
    for (share, _), mix in zip(shares, mixes, strict=True):
        position = np.arange(len(share.rows))
        shift = np.repeat(mix.shift, group)
        partners.append(share.rows[position // group * group + (position % group + shift) % group])
    fields = [[getattr(share, name) for share, _ in shares] for name in ("rows", "epochs", "repeats")]
    fields += [[getattr(drawn, name) for _, drawn in shares] for name in ("affine", "brightness", "contrast")]
    fields += [[getattr(mix, name) for mix in mixes] for name in ("shift", "box", "share")]
    return [np.concatenate(field) for field in (*fields, partners)]


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 2000),
    mix_group=st.sampled_from([1, 2, 4, 8]),
    groups=st.integers(64, 90),
    seed=st.integers(0, 2**31 - 1),
    kind=st.sampled_from(["none", "cutmix", "mixup"]),
    weigh=st.booleans(),
    lives=st.lists(st.tuples(st.integers(1, 64), st.integers(1, 2), st.integers(0, 2)), min_size=1, max_size=4),
)
def test_any_chain_of_worlds_and_kills_shows_the_undisturbed_sequence(n, mix_group, groups, seed, kind, weigh, lives):
    def start() -> Stream:
        return stream_of(n, groups, mix_group, seed, kind, weigh=weigh)

    undisturbed = start()
    step = 0
    for world, steps, lost in lives:
        stream = start()
        for number in range(step, step + steps):
            for one, other in zip(seen(stream, number, world), seen(undisturbed, number, 1), strict=True):
                assert np.array_equal(one, other)
        step += steps - min(lost, steps)  # killed; the last checkpoint lies so many steps back


def test_the_chain_8_4_7_16_1_shows_the_undisturbed_sequence():
    rng = np.random.default_rng(0)
    undisturbed = stream_of(1500, 20, 8, 3, "cutmix")
    expected = [seen(undisturbed, step, 1) for step in range(60)]
    step = 0
    mixed = 0
    for world in (8, 4, 7, 16, 1):
        stream = stream_of(1500, 20, 8, 3, "cutmix")
        for number in range(step, end := step + int(rng.integers(3, 12))):
            found = seen(stream, number, world)
            mixed += int((found[6] > 0).sum())
            assert all(np.array_equal(one, other) for one, other in zip(found, expected[number], strict=True))
        step = max(0, end - int(rng.integers(0, 4)))
    assert step > 15
    assert mixed > 100


def test_a_repeated_sample_is_augmented_anew():
    stream = stream_of(300, 75, 4, 1, "none", weigh=True)
    share, drawn = stream.at(0)
    twice = [row for row in set(share.rows.tolist()) if (share.rows == row).sum() == 2]
    assert twice
    for row in twice:
        first, second = np.flatnonzero(share.rows == row)
        assert share.repeats[[first, second]].tolist() in ([0, 1], [1, 0])
        assert not np.array_equal(drawn.affine[first], drawn.affine[second])
