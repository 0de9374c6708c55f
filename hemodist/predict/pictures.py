"""Slices as a person looks at them: windows and heat map, as arrays, and as the PNG files of `--explain`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from hemodist.dataset.labels import LABELS
from hemodist.loading.dali_pipeline import Batch
from hemodist.loading.evaluation_batches import grey_values
from hemodist.models.trained import Trained, window_names
from hemodist.predict.networks import run_of
from hemodist.predict.options import Settings
from hemodist.reports.verdict import FOR_RESEARCH
from hemodist.scoring.heat_maps import Maps, heat_maps, target_layer
from hemodist.scoring.worst_slices import LINE, slice_picture
from hemodist.storage.store import Store

BatchesOf = Callable[[Trained, npt.NDArray[np.int64]], Iterator[Batch]]
"""Pictures of some slices, numbered, as a network sees them."""

HEAT_MAP_TILE = 256
"""Side of a tile of a heat map's PNG, in pixels."""


@dataclass(frozen=True, eq=False)
class SlicePicture:
    """A slice as a person looks at it.

    Attributes:
        windows: uint8 [h, w, 3], a window a channel.
        heat: float32 [h, w] in [0, 1]: what speaks for `any`.
        names: of the windows.
    """

    windows: npt.NDArray[np.uint8]
    heat: Maps
    names: Sequence[str]


def write_heat_maps(
    members: Sequence[Trained],
    batches_of: BatchesOf,
    keys: Sequence[str],
    names: Sequence[str],
    probability: npt.NDArray[np.float64],
    settings: Settings,
    at_once: int,
) -> None:
    """Write a PNG for each slice with P(any) above the bound."""
    above = -1.0 if settings.explain_above is None else settings.explain_above
    chosen = np.flatnonzero(probability[:, LABELS.index("any")] > above)
    if settings.explain is None or not len(chosen):
        return
    store = Store.open(settings.explain)
    for at, picture in pictures(members, batches_of, chosen, settings, at_once):
        store.write(f"{keys[at]}.png", heat_map_png(picture, names[at], probability[at]))


def pictures(
    members: Sequence[Trained],
    batches_of: BatchesOf,
    chosen: npt.NDArray[np.int64],
    settings: Settings,
    at_once: int,
) -> Iterator[tuple[int, SlicePicture]]:
    """Windows of the first network, and the mean of the networks' maps, each in [0, 1]."""
    layers = [target_layer(member.network, member.run.model.image_size) for member in members]
    names = window_names(members[0].sharding)
    # One size for all, so that the networks look at the same slices at a time.
    size = min(at_once, *(run_of(member, settings).batch.eval_batch_size for member in members))
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        maps: list[Maps] = []
        grey: npt.NDArray[np.uint8] = np.empty((0, 0, 0, 3), np.uint8)
        for member, layer in zip(members, layers, strict=True):
            (batch,) = batches_of(member, part)
            maps.append(heat_maps(member.network.to(batch.images.device), batch.images, "any", layer))
            grey = grey if len(grey) else grey_values(batch.images)
        for windows, at, *heats in zip(grey, part.tolist(), *maps, strict=True):
            heat: Maps = np.stack([_scaled(one, grey.shape[1]) for one in heats]).mean(axis=0)
            yield at, SlicePicture(windows, heat, names)


def heat_map_png(picture: SlicePicture, name: str, probability: npt.NDArray[np.float64]) -> bytes:
    """PNG of a slice: its windows and heat map, below its name and its probabilities, three a line."""
    shown = slice_picture(picture.windows, picture.heat, None, picture.names, HEAT_MAP_TILE)
    said = [f"{label} {p:.3f}" for label, p in zip(LABELS, probability, strict=True) if not np.isnan(p)]
    lines = [name, "   ".join(said[:3]), "   ".join(said[3:]), FOR_RESEARCH]
    page = Image.new("RGB", (shown.width, shown.height + LINE * len(lines)), "black")
    page.paste(shown, (0, LINE * len(lines)))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=12)
    for number, line in enumerate(lines):
        draw.text((4, LINE * number + 2), line, fill="white", font=font)
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def _scaled(heat: Maps, side: int) -> Maps:
    if heat.shape[0] == side:
        return heat
    return np.asarray(Image.fromarray(heat).resize((side, side), Image.Resampling.BILINEAR))
