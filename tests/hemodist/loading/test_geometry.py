from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hemodist.config.data import AugmentConfig
from hemodist.loading.geometry import sharpening, warp
from hemodist.plan.augmentation import draw_augmentation
from shards.phantom.anatomy import draw_subject, render
from shards.phantom.generate import plan_of
from shards.picture.windows import apply, parse_channels


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Heads of 256 pixels in the usual windows, uint8 [256, 256, 3], resampled in HU as the sharder does."""
    made = []
    for patient in plan_of(3, 400)[0][:10]:
        hu = render(draw_subject(patient, 3, 512), 18)[0].astype(np.float32)
        small = np.asarray(Image.fromarray(hu).resize((256, 256), Image.Resampling.BILINEAR))
        made.append(apply(small.astype(np.float64), parse_channels(["brain", "subdural", "soft_tissue"])))
    return made


def turned(picture: np.ndarray, degrees: float, size: int) -> np.ndarray:
    angle = np.deg2rad(degrees)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = 0.5 - linear @ [0.5, 0.5]
    affine = np.concatenate([linear, shift[:, None]], axis=1)[None].astype(np.float32)
    return warp(torch.from_numpy(picture.copy())[None], affine, size)[0].numpy()


def energy(grey: np.ndarray) -> float:
    """Mean square of the Laplacian in the middle of a picture."""
    grey = grey.astype(np.float64)
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    margin = len(grey) // 8
    return float((laplacian[margin:-margin, margin:-margin] ** 2).mean())


@pytest.mark.parametrize("size", [64, 112, 128, 160, 192, 224, 256])
def test_turned_pictures_are_as_sharp_as_unturned_ones(pictures, size):
    angles = np.linspace(-8, 8, len(pictures))
    plain = [np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BILINEAR)) for one in pictures]
    moved = [turned(one, angle, size) for one, angle in zip(pictures, angles, strict=True)]
    assert 0.9 < sum(map(energy, moved)) / sum(map(energy, plain)) < 1.1


@pytest.mark.parametrize("size", [112, 160, 224, 256, 320])
def test_a_map_that_moves_nothing_gives_the_resized_picture(pictures, size):
    for picture in pictures[:3]:
        plain = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR), np.float32)
        difference = np.abs(turned(picture, 0, size) - plain)[2:-2, 2:-2]
        assert difference.mean() < 2.5
        assert (size != 256) or difference.max() < 1e-3


def test_what_lies_outside_is_black_and_the_rest_is_where_the_map_says():
    picture = np.full((32, 32, 3), 200, np.uint8)
    picture[8:16, 16:24] = 0
    half = np.array([[[0.5, 0, 0.5], [0, 0.5, 0]]], np.float32)  # the upper right quarter
    shown = warp(torch.from_numpy(picture)[None], half, 32)[0].numpy()
    assert shown[20:28, 4:12].max() < 1  # twice as large, from (16, 8) to (0, 16)
    assert shown[4:12, 20:28].min() > 199
    out = np.array([[[1, 0, 0.5], [0, 1, 0]]], np.float32)
    assert warp(torch.from_numpy(picture)[None], out, 32)[0, :, 17:].max() == 0


@pytest.mark.parametrize("size", [16, 21, 32, 40])
def test_a_picture_of_a_batch_is_what_it_is_alone(size):
    rng = np.random.default_rng(1)
    batch = torch.from_numpy(rng.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8))
    strong = AugmentConfig(0.5, 0.5, 0.5, 0.5, 20.0, 0.1, 0.2)
    affine = draw_augmentation(strong, 0, np.zeros(7, np.int64), np.arange(7)).affine
    whole = warp(batch, affine, size)
    assert all(torch.equal(whole[i : i + 1], warp(batch[i : i + 1], affine[i : i + 1], size)) for i in range(7))
    assert whole.min() >= 0
    assert whole.max() <= 255


def test_sharpening_is_small_wherever_both_are_interpolated():
    assert sharpening(256, 256) == 0.23
    assert all(-0.07 < sharpening(256, size) <= 0 for size in range(16, 512) if size != 256)
