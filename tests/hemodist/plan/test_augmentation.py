from __future__ import annotations

import numpy as np

from hemodist.config.data import AugmentConfig
from hemodist.plan.augmentation import draw_augmentation

STRONG = AugmentConfig(
    min_crop_area=0.5, flip_horizontal=0.5, flip_vertical=0.5, transpose=0.5, rotation_degrees=30.0,
    brightness=0.1, contrast=0.2,
)  # fmt: skip


def drawn(config: AugmentConfig, n: int = 4000, seed: int = 0):
    return draw_augmentation(config, seed, np.zeros(n, np.int64), np.arange(n))


def test_a_draw_belongs_to_seed_epoch_and_sample_not_to_the_batch():
    rows = np.array([5, 99, 3])
    epochs = np.array([0, 2, 1])
    together = draw_augmentation(STRONG, 7, epochs, rows)
    for i in range(3):
        alone = draw_augmentation(STRONG, 7, epochs[i : i + 1], rows[i : i + 1])
        assert np.array_equal(alone.affine[0], together.affine[i])
        assert alone.brightness[0] == together.brightness[i]
        assert alone.contrast[0] == together.contrast[i]
    assert not np.array_equal(draw_augmentation(STRONG, 7, epochs + 1, rows).affine, together.affine)
    assert not np.array_equal(draw_augmentation(STRONG, 8, epochs, rows).affine, together.affine)


def test_no_strength_is_the_identity():
    nothing = drawn(AugmentConfig())
    assert np.allclose(nothing.affine, np.eye(2, 3), atol=1e-7)
    assert not nothing.brightness.any()
    assert (nothing.contrast == 1).all()


def test_a_crop_stays_inside_the_image_and_has_the_stated_area():
    affine = drawn(AugmentConfig(min_crop_area=0.5)).affine
    corners = np.einsum("bij,kj->bki", affine[:, :, :2], np.array([[0, 0], [1, 1]])) + affine[:, None, :, 2]
    assert corners.min() >= -1e-6
    assert corners.max() <= 1 + 1e-6
    area = np.abs(np.linalg.det(affine[:, :, :2]))
    assert 0.5 <= area.min() < 0.52
    assert 0.98 < area.max() <= 1


def test_flips_and_transpositions_keep_the_image_in_place():
    affine = drawn(AugmentConfig(flip_horizontal=0.5, flip_vertical=0.5, transpose=0.5)).affine
    center = affine[:, :, :2] @ np.array([0.5, 0.5]) + affine[:, :, 2]
    assert np.allclose(center, 0.5, atol=1e-6)
    kinds = {tuple(np.rint(linear).astype(int).ravel()) for linear in affine[:, :, :2]}
    assert len(kinds) == 8  # the square's whole symmetry group


def test_probabilities_and_strengths_are_the_stated_ones():
    only_flip = drawn(AugmentConfig(flip_horizontal=0.25)).affine
    assert abs((only_flip[:, 0, 0] < 0).mean() - 0.25) < 0.03
    turned = drawn(AugmentConfig(rotation_degrees=20)).affine
    degrees = np.rad2deg(np.arctan2(turned[:, 1, 0], turned[:, 0, 0]))
    assert 19 < degrees.max() <= 20
    assert -20 <= degrees.min() < -19
    strong = drawn(STRONG)
    assert 0.099 < np.abs(strong.brightness).max() <= 0.1
    assert 0.8 <= strong.contrast.min() < 0.81
