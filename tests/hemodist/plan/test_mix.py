from __future__ import annotations

import numpy as np
import pytest
import torch

from hemodist.config.data import MixConfig
from hemodist.loading.mixing import mix_images, mix_targets
from hemodist.plan.mix import draw_mix

SIZE, GROUP = 24, 4


def batch(groups: int = 6, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(groups * GROUP, SIZE, SIZE, 3, generator=generator)
    targets = (torch.rand(groups * GROUP, 6, generator=generator) < 0.5).float().numpy()
    return images, targets, np.ones(groups * GROUP, np.float32)


def mixed_images(images, mix):
    mixed = images.clone()
    mix_images(mixed, mix)
    return mixed


def slow_reference(images, targets, mix):
    """Pixel by pixel, target by target."""
    mixed, labels = images.clone(), targets.copy()
    for i in range(len(images)):
        g = i // GROUP
        if not mix.shift[g]:
            continue
        j = g * GROUP + (i % GROUP + int(mix.shift[g])) % GROUP
        x0, y0, x1, y1 = mix.box[g]
        pasted = 0
        for y in range(SIZE):
            for x in range(SIZE):
                if x0 <= x < x1 and y0 <= y < y1:
                    mixed[i, y, x] = images[j, y, x]
                    pasted += 1
        kept = 1 - pasted / SIZE**2
        labels[i] = kept * targets[i] + (1 - kept) * targets[j]
    return mixed, labels


def test_cutmix_equals_a_slow_reference_in_pixels_and_targets():
    images, targets, weights = batch()
    mix = draw_mix(MixConfig("cutmix", probability=0.8), 3, 10, 6, mix_group=GROUP, size=SIZE)
    assert 0 < (mix.shift > 0).sum() <= 6
    mixed, (labels, _) = mixed_images(images, mix), mix_targets(targets, weights, mix)
    expected_images, expected_labels = slow_reference(images, targets, mix)
    assert torch.equal(mixed, expected_images)
    assert np.allclose(labels, expected_labels, atol=1e-6)


def test_a_cutmix_that_keeps_the_first_images_label_is_a_bug():
    targets = np.array([[1.0] * 6, [0.0] * 6, [1.0] * 6, [0.0] * 6], np.float32)
    for number in range(50):
        mix = draw_mix(MixConfig("cutmix"), 0, number, 1, mix_group=GROUP, size=SIZE)
        if mix.share[0] < 1 and mix.shift[0] % 2 == 1:
            labels, _ = mix_targets(targets, np.ones(GROUP, np.float32), mix)
            assert np.allclose(labels[0], mix.share[0])
            assert not np.array_equal(labels, targets)
            return
    pytest.fail("no group was mixed in 50 draws")


def test_the_share_is_exactly_the_area_that_was_not_pasted():
    mix = draw_mix(MixConfig("cutmix"), 0, 0, 2000, mix_group=GROUP, size=SIZE)
    area = (mix.box[:, 2] - mix.box[:, 0]) * (mix.box[:, 3] - mix.box[:, 1])
    assert np.array_equal(mix.share, 1 - area / SIZE**2)
    assert mix.box.min() >= 0
    assert mix.box.max() <= SIZE
    assert 0.5 < mix.share.mean() < 0.75  # clipped boxes paste less than half on average


def test_draws_belong_to_the_group_not_to_the_share_that_a_rank_reads():
    config = MixConfig("cutmix", probability=0.5, alpha=0.4)
    whole = draw_mix(config, 5, 100, 12, mix_group=8, size=64)
    for first, count in ((100, 5), (105, 1), (106, 6)):
        part = draw_mix(config, 5, first, count, mix_group=8, size=64)
        chosen = slice(first - 100, first - 100 + count)
        assert np.array_equal(part.shift, whole.shift[chosen])
        assert np.array_equal(part.box, whole.box[chosen])
        assert np.array_equal(part.share, whole.share[chosen])


def test_partners_are_other_samples_of_the_same_group():
    mix = draw_mix(MixConfig("cutmix"), 0, 0, 1000, mix_group=GROUP, size=SIZE)
    assert set(mix.shift) == {1, 2, 3}


def test_mixup_blends_images_and_targets_with_one_share():
    images, targets, weights = batch()
    mix = draw_mix(MixConfig("mixup", alpha=0.4), 1, 0, 6, mix_group=GROUP, size=SIZE)
    mixed, (labels, _) = mixed_images(images, mix), mix_targets(targets, weights, mix)
    for i in range(len(images)):
        g = i // GROUP
        j = g * GROUP + (i % GROUP + int(mix.shift[g])) % GROUP
        share = float(mix.share[g])
        assert torch.allclose(mixed[i], share * images[i] + (1 - share) * images[j], atol=1e-5)
        assert np.allclose(labels[i], share * targets[i] + (1 - share) * targets[j], atol=1e-6)


def test_an_unknown_label_stays_unknown_and_a_masked_sample_masks_its_partner():
    _, targets, weights = batch(groups=1)
    targets[0, 2] = float("nan")
    weights[1] = 0
    for number in range(50):
        mix = draw_mix(MixConfig("cutmix"), 0, number, 1, mix_group=GROUP, size=SIZE)
        if mix.share[0] < 1:
            break
    labels, mixed_weights = mix_targets(targets, weights, mix)
    holders = [i for i in range(GROUP) if 0 in (i, (i + int(mix.shift[0])) % GROUP)]
    assert np.flatnonzero(np.isnan(labels[:, 2])).tolist() == holders
    assert not np.isnan(labels[:, [0, 1, 3, 4, 5]]).any()
    masked = [i for i in range(GROUP) if 1 in (i, (i + int(mix.shift[0])) % GROUP)]
    assert np.flatnonzero(mixed_weights == 0).tolist() == masked


def test_none_changes_nothing():
    images, targets, weights = batch()
    mix = draw_mix(MixConfig("none"), 0, 0, 6, mix_group=GROUP, size=SIZE)
    labels, kept = mix_targets(targets, weights, mix)
    assert torch.equal(mixed_images(images, mix), images)
    assert np.array_equal(labels, targets)
    assert np.array_equal(kept, weights)
