"""Where a network looks: heat maps of what speaks for a label, and whether their peak hits the truth.

Grad-CAM (Selvaraju et al. 2017) says which region speaks for a label, in the few cells of the last block: 3 x 3 for
images of 96 pixels, too coarse to point at anything. As in the same paper's Guided Grad-CAM it is multiplied with a map
of the pixels: here the gradient of the label's logit times what the pixel has above air, smoothed. Both by captum.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from captum.attr import LayerGradCam, Saliency
from scipy import ndimage
from torch import nn

from hemodist.dataset.labels import LABELS
from hemodist.errors import ConfigError
from hemodist.loading.pixels import MEAN, STD
from hemodist.metrics.bootstrap import mean_estimate, resamples
from hemodist.reports.contents import PointingGame
from hemodist.storage.store import Store

Maps = npt.NDArray[np.float32]

SMOOTHING = 0.02
"""Standard deviation of the pixels' smoothing as a share of the picture's side: 5 mm over a field of view of 240 mm."""

_AT_ONCE = 4
"""Images whose gradient is computed together: all that lies between input and logit is kept, 0.3 GB of DenseNet-161."""

_LEAST_CELLS = 2  # a map of one cell points nowhere


def target_layer(network: nn.Module, image_size: int) -> str:
    """Name of the layer that Grad-CAM explains: the last one that gives maps of more than one cell.

    Args:
        network: takes float [b, 3, image_size, image_size].
        image_size: in pixels.

    Raises:
        ConfigError: no layer gives maps, as in a network without convolutions.
    """
    names = {module: name for name, module in network.named_modules() if name}
    found: list[str] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        is_map = isinstance(output, torch.Tensor) and output.dim() == 4 and output.shape[2] == output.shape[3]
        if is_map and _LEAST_CELLS <= output.shape[2] < image_size and not isinstance(module, _POOLING):
            found.append(names[module])

    hooks = [module.register_forward_hook(note) for module in names]
    was_training = network.training
    network.eval()
    example = next(network.parameters())
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, image_size, image_size, device=example.device, dtype=example.dtype))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    if not found:
        raise ConfigError(
            f"{type(network).__name__} has no layer that gives maps, so there is no Grad-CAM of it; "
            "use a convolutional network, or leave the heat maps out"
        )
    return found[-1]


_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


def heat_maps(network: nn.Module, images: torch.Tensor, label: str, layer: str) -> Maps:
    """What speaks for a label, float32 [b, h, w] in [0, 1], the largest value of each map 1; all 0 where nothing does.

    Args:
        network: in evaluation mode.
        images: float [b, 3, h, w], normalised, square.
        label: one of `LABELS`.
        layer: name of a layer, see `target_layer`.
    """
    regions, pixels = region_and_pixel_maps(network, images, label, layer)
    return _scaled(regions * pixels)


def region_and_pixel_maps(network: nn.Module, images: torch.Tensor, label: str, layer: str) -> tuple[Maps, Maps]:
    """What `heat_maps` multiplies: `region_maps` and `pixel_maps`, a few images at a time."""
    parts = torch.split(images, _AT_ONCE)
    regions = np.concatenate([region_maps(network, part, label, layer) for part in parts])
    return regions, np.concatenate([pixel_maps(network, part, label) for part in parts])


def region_maps(network: nn.Module, images: torch.Tensor, label: str, layer: str) -> Maps:
    """Grad-CAM of a layer, interpolated to the images' size, scaled and otherwise as `heat_maps`."""
    cam = LayerGradCam(network, network.get_submodule(layer))
    with torch.enable_grad():
        inputs = images.detach().clone().requires_grad_()
        coarse = cam.attribute(inputs, target=LABELS.index(label), relu_attributions=True).detach().float()
    fine: Maps = nn.functional.interpolate(coarse, tuple(images.shape[-2:]), mode="bilinear")[:, 0].cpu().numpy()
    return _scaled(fine)


def pixel_maps(network: nn.Module, images: torch.Tensor, label: str) -> Maps:
    """Gradient of the label's logit times what each pixel has above air, where positive; scaled as `heat_maps`."""
    with torch.enable_grad():
        inputs = images.detach().clone().requires_grad_()
        gradient = Saliency(network).attribute(inputs, target=LABELS.index(label), abs=False).detach()
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    above_air = images.detach() + mean / std  # black is air in every window
    share = (gradient * above_air).sum(dim=1).clamp(min=0).float().cpu().numpy()
    width = SMOOTHING * images.shape[-1]
    return _scaled(ndimage.gaussian_filter(share, (0, width, width), mode="nearest"))


def _scaled(maps: Maps) -> Maps:
    largest = maps.max(axis=(1, 2), keepdims=True)
    scaled: Maps = np.divide(maps, largest, out=np.zeros_like(maps), where=largest > 0)
    return scaled


class Masks:
    """Truth masks of `python -m shards phantom --masks`: `KEY.npz` with `masks`, bool [5, rows, columns]."""

    def __init__(self, folder: str) -> None:
        """Open a folder of masks.

        Raises:
            ConfigError: there is none in it.
        """
        self._store = Store.open(folder)
        self._names = {name for name, _ in self._store.list() if name.endswith(".npz")}
        if not self._names:
            raise ConfigError(
                f"{self._store.uri} holds no mask (KEY.npz); `python -m shards phantom OUT --masks` writes some"
            )

    @property
    def uri(self) -> str:
        """Where they are."""
        return self._store.uri

    def of(self, key: str) -> npt.NDArray[np.bool_] | None:
        """Where any hemorrhage is in a slice, bool [rows, columns]; None where there is no mask of it.

        Raises:
            ConfigError: the file is no mask.
        """
        name = f"{key}.npz"
        if name not in self._names:
            return None
        try:
            with np.load(io.BytesIO(self._store.read(name)), allow_pickle=False) as archive:
                masks = archive["masks"]
            if masks.ndim != 3 or masks.shape[1] != masks.shape[2] or masks.dtype != np.bool_:
                raise ValueError(f"masks is {masks.dtype} {masks.shape}")
        except (ValueError, KeyError, OSError, EOFError) as error:
            raise ConfigError(f"{self._store.uri}/{name} is no mask of square slices: {error}") from error
        truth: npt.NDArray[np.bool_] = masks.any(axis=0)
        return truth


def on_mask(heat: Maps, mask: npt.NDArray[np.bool_]) -> bool:
    """Whether the middle of the map's brightest pixel lies on the mask, which may be finer than the map."""
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    scale = mask.shape[0] / heat.shape[0]
    return bool(mask[int((row + 0.5) * scale), int((column + 0.5) * scale)])


def pointing_game(
    hits: npt.NDArray[np.bool_],
    coarse: npt.NDArray[np.bool_],
    covered: npt.NDArray[np.float64],
    groups: npt.NDArray[Any],
    layer: str,
) -> PointingGame:
    """The result of the pointing game on n true positives.

    Args:
        hits: [n], n above 0: the heat map's peak lies on the mask.
        coarse: [n], likewise for Grad-CAM alone.
        covered: [n], the share of the picture that the mask covers.
        groups: [n], what is resampled.
        layer: that Grad-CAM was taken from.
    """
    group = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    counts = resamples(int(group.max()) + 1, 500, 0)
    share = mean_estimate(hits, np.ones(len(hits)), group, counts)
    return PointingGame(share, int(hits.sum()), len(hits), float(covered.mean()), float(coarse.mean()), layer)
