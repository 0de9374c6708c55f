"""Moves pixels: from a decoded picture to the network's size by one map, interpolated once. The same on every device.

A map that turns or crops reads between the pixels, and where the output is smaller, several pixels become one. So each
output pixel is the mean of `taps` x `taps` bilinear samples, spread over the area that it shows. That is as sharp as
the picture allows. Pictures that are not augmented are resized by a triangle filter (`fn.resize`, as Pillow's bilinear
filter), or not at all, and a network should see both alike; so a stencil of five pixels brings the sharpness to theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

Floats = npt.NDArray[np.float32]

UNMOVED = 0.23
"""Sharpening where the stored size is the network's: bilinear samples keep 0.41 of a head's Laplacian energy."""

SHRUNK = (
    (1.0, 0.0), (1.14, -0.036), (1.33, -0.063), (1.49, -0.066),
    (1.51, -0.022), (1.78, -0.041), (2.0, -0.062), (2.3, -0.055),
)  # fmt: skip
"""Sharpening for each ratio of the stored size to a smaller one; negative smooths. All were found by bisection: with
them, phantoms' and real heads' pictures, turned by up to 8 degrees, have the Laplacian energy of unturned ones."""


def sharpening(stored: int, size: int) -> float:
    """How much the stencil sharpens pictures of `stored` x `stored` pixels that are shown at `size` x `size`."""
    if stored == size:
        return UNMOVED
    ratios, strengths = zip(*SHRUNK, strict=True)
    return float(np.interp(stored / size, ratios, strengths))


def warp(pictures: torch.Tensor, affine: Floats, size: int) -> torch.Tensor:
    """Show a part of each picture, turned, flipped and resized as its map says; what lies outside is black.

    A map that takes pixels to pixels (a flip or a transposition at the stored size) changes no grey level.

    Args:
        pictures: uint8 [b, stored, stored, c], in memory in this order.
        affine: float32 [b, 2, 3]; maps output coordinates (x, y) to input coordinates, both in units of the picture's
            side, 0 to 1 from edge to edge.
        size: rows and columns of the output.

    Returns:
        Grey levels, float32 [b, size, size, c], 0 to 255, on the pictures' device.
    """
    stored = pictures.shape[1]
    taps = max(1, round(stored / size))
    # [-1, 1] from edge to edge, as grid_sample wants it, on both sides of the map.
    scaled = np.concatenate([affine[:, :, :2], (affine @ np.array([1, 1, 2], np.float32))[:, :, None] - 1], axis=2)
    across, down, shift = to_device(scaled, pictures.device)[:, :, :, None].unbind(2)
    side = size * taps
    # The samples of one tap stand together: blocks are added faster than neighbours.
    centers = torch.arange(1 - side, side, 2, dtype=torch.float32, device=pictures.device).view(size, taps).T / side
    columns, rows = across * centers.reshape(-1) + shift, down * centers.reshape(-1)  # [b, 2, side]
    grid = torch.empty(len(pictures), side, side, 2, device=pictures.device)
    for axis in (0, 1):
        torch.add(columns[:, axis, None, :], rows[:, axis, :, None], out=grid[..., axis])
    moved = F.grid_sample(pictures.float().permute(0, 3, 1, 2), grid, align_corners=False)
    if taps > 1:
        moved = _sum([_sum(part.chunk(taps, 3)) for part in moved.chunk(taps, 2)]).div_(taps**2)
    shown = moved.permute(0, 2, 3, 1).contiguous()
    strength = np.full(len(pictures), sharpening(stored, size), np.float32)
    if stored == size:
        pixels = affine * np.array([1, 1, size], np.float32)
        strength[np.abs(pixels - pixels.round()).max(axis=(1, 2)) < 1e-3] = 0.0
    return _sharpened(shown, strength)


def _sharpened(pictures: torch.Tensor, strength: Floats) -> torch.Tensor:
    """Grey levels minus `strength` [b] times their Laplacian, in place; the outermost pixels stay as they are."""
    if not strength.any():
        return pictures
    batch, height, width, channels = pictures.shape
    rows = pictures.view(batch, height, width * channels)  # long rows are fast, triples of channels are not
    by = to_device(strength, pictures.device)[:, None, None]
    inner = rows[:, 1:-1, channels:-channels]
    around = rows[:, :-2, channels:-channels] + rows[:, 2:, channels:-channels]
    around.add_(rows[:, 1:-1, : -2 * channels]).add_(rows[:, 1:-1, 2 * channels :])
    inner.mul_(1 + 4 * by).sub_(around.mul_(by))
    return pictures.clamp_(0, 255)


def _sum(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total.add_(part)
    return total


def to_device(values: npt.NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """An array as a tensor on a device; a GPU copies it when it comes to it, and the host does not wait."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
