"""From decoded pixels to what the network sees: moved, lit and normalised. The same on every device."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import threadpoolctl
import torch

from hemodist.loading.geometry import to_device, warp

Floats = npt.NDArray[np.float32]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, in units of the full range: what torchvision's networks and their weights expect."""


def network_input(decoded: torch.Tensor, affine: Floats | None, light: Floats, size: int, out: torch.Tensor) -> None:
    """Write what the network sees of some decoded pictures.

    Args:
        decoded: uint8 [b, side, side, 3]; of the network's size where nothing moves them.
        affine: float32 [b, 2, 3], see `geometry.warp`; None where nothing moves them.
        light: float32 [b, 2, 3], what grey levels are multiplied by and what is added, see `light_of`.
        size: side of the network's input in pixels.
        out: float32 [b, size, size, 3] to write into.
    """
    grey = decoded.float() if affine is None else warp(decoded, affine, size)
    rows = to_device(np.tile(light, size), decoded.device)  # long rows are fast, triples of channels are not
    factor, shift = rows[:, :, None].unbind(1)
    torch.addcmul(shift, grey.flatten(2), factor, out=out.flatten(2))


def light_of(samples: int, brightness: Floats | None, contrast: Floats | None) -> Floats:
    """Brightness, contrast and normalisation of grey levels as factor and shift, float32 [b, 2, 3].

    Args:
        samples: how many pictures there are, b.
        brightness: float32 [b], added, in units of the full range; None for 0.
        contrast: float32 [b], factor about the middle of the range; None for 1.
    """
    by = np.ones((samples, 1)) if contrast is None else contrast[:, None].astype(np.float64)
    add = np.zeros((samples, 1)) if brightness is None else brightness[:, None].astype(np.float64)
    factor = by / (255 * np.array(STD))
    shift = (0.5 - 0.5 * by + add - np.array(MEAN)) / np.array(STD)
    return np.stack([factor, shift], axis=1).astype(np.float32)


class PixelThreads:
    """Threads that make a batch's pixels, picture by picture: a picture fits the CPU's cache, a batch does not.

    Each computes on its own, so that no bit of a picture depends on how many threads there are.
    """

    def __init__(self, threads: int) -> None:
        """Start none yet.

        Args:
            threads: at most so many.
        """
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "pixels", _compute_alone)

    def network_input(
        self, decoded: torch.Tensor, affine: Floats | None, light: Floats, size: int, out: torch.Tensor
    ) -> None:
        """Like the function of this name."""

        def part(first: int) -> None:
            for i in range(first, len(decoded), self._threads):
                one = slice(i, i + 1)
                network_input(decoded[one], None if affine is None else affine[one], light[one], size, out[one])

        list(self._pool.map(part, range(self._threads)))

    def close(self) -> None:
        """End them."""
        self._pool.shutdown()


def _compute_alone() -> None:
    torch.get_num_threads()  # the first call in a thread would undo the next line
    threadpoolctl.threadpool_limits(1, "openmp")
