"""The slices on which a network is most wrong, with windows and heat maps, and the pointing game on the others."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.events import EvaluationProgress, Tell
from hemodist.loading.evaluation_batches import grey_values, stored_batches
from hemodist.metrics.probabilities import DECISION
from hemodist.models.trained import Trained
from hemodist.reports.contents import PointingGame, SliceFigure
from hemodist.scoring.heat_maps import (
    Maps,
    Masks,
    heat_maps,
    on_mask,
    pointing_game,
    region_and_pixel_maps,
    target_layer,
)

ANY = LABELS.index("any")
TILE = 200
"""Side of a tile in the report, in pixels."""
LINE = 18
"""Height of a line of text in a picture, in pixels."""
EMPTY_MAP = "heat map: empty"
_OUTLINE = (60, 230, 120)
_HEAT = colormaps["inferno"]
_OPACITY = 0.65  # of the heat map where it is largest

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class WorstSlice:
    """A slice on which the network is badly wrong, with what readers and network say of it.

    Attributes:
        kind: `missed` (with hemorrhage, least P(any)) or `alarm` (without, highest P(any)).
        key: of the sample.
        windows: uint8 [h, w, 3], a window a channel, at the network's size.
        heat: float32 [h, w] in [0, 1]: what speaks for `any`.
        probability: float64 [6].
        labels: int8 [6].
        mask: where the truth is, bool [h, w]; None where nobody knows.
    """

    kind: Literal["missed", "alarm"]
    key: str
    windows: Grey
    heat: Maps
    probability: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int8]
    mask: npt.NDArray[np.bool_] | None

    @property
    def wrong(self) -> bool:
        """Whether the decision at 0.5 is wrong."""
        return bool((self.probability[ANY] > DECISION) != (self.labels[ANY] == 1))


def most_wrong(
    probability: npt.NDArray[np.float64], labels: npt.NDArray[np.int8], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions of the positives with the lowest P(any) and of the negatives with the highest, `count` each at most."""
    order = np.argsort(probability[:, ANY], kind="stable")
    missed = order[labels[order, ANY] == 1][:count]
    alarms = order[labels[order, ANY] == 0][::-1][:count]
    return missed, alarms


def find_worst_slices(
    trained: Trained,
    dataset: DataSet,
    rows: npt.NDArray[np.int64],
    probability: npt.NDArray[np.float64],
    device: torch.device,
    *,
    count: int,
    masks: Masks | None,
) -> list[WorstSlice]:
    """The worst slices of a split, missed ones first; the network is on `device`.

    Args:
        trained: the network that gave the probabilities.
        dataset: the data set.
        rows: int64 [n], rows of the index.
        probability: float64 [n, 6].
        device: what it runs on.
        count: of each kind at most.
        masks: where the truth is, if it is known.
    """
    labels = dataset.labels()[rows]
    missed, alarms = most_wrong(probability, labels, count)
    chosen = np.concatenate([missed, alarms])
    if not len(chosen):
        return []
    layer = target_layer(trained.network, trained.run.model.image_size)
    keys = dataset.index.column("key")
    found: list[WorstSlice] = []
    # One at a time: each may lie in another shard, and a small cache has no room for all of them.
    alone = replace(trained.run, batch=replace(trained.run.batch, eval_batch_size=1))
    for batch in stored_batches(dataset, rows[chosen], alone, device):
        maps, grey = heat_maps(trained.network, batch.images, "any", layer), grey_values(batch.images)
        for picture, heat in zip(grey, maps, strict=True):
            at = chosen[len(found)]
            key = keys[int(rows[at])].as_py()
            truth = masks.of(key) if masks else None
            small = None if truth is None else _resized(truth, heat.shape[0])
            kind: Literal["missed", "alarm"] = "missed" if len(found) < len(missed) else "alarm"
            found.append(WorstSlice(kind, key, picture, heat, probability[at], labels[at], small))
    return found


def play_pointing_game(
    trained: Trained,
    dataset: DataSet,
    rows: npt.NDArray[np.int64],
    probability: npt.NDArray[np.float64],
    masks: Masks,
    device: torch.device,
    tell: Tell,
) -> PointingGame | None:
    """The pointing game on every true positive (at 0.5) of a split that has a mask; None where there is none.

    Args:
        trained: the network that gave the probabilities, on `device`.
        dataset: the data set.
        rows: int64 [n], rows of the index.
        probability: float64 [n, 6].
        masks: where the truth is.
        device: what it runs on.
        tell: told of the progress.
    """
    true = rows[(dataset.labels()[rows, ANY] == 1) & (probability[:, ANY] > DECISION)]
    layer = target_layer(trained.network, trained.run.model.image_size)
    keys, groups = dataset.index.column("key"), dataset.resampled_groups(np.arange(len(dataset.index)))
    hits, coarse, covered, group = [], [], [], []
    for batch in stored_batches(dataset, true, trained.run, device):
        regions, pixels = region_and_pixel_maps(trained.network, batch.images, "any", layer)
        for row, region, heat in zip(batch.rows.tolist(), regions, regions * pixels, strict=True):
            mask = masks.of(keys[row].as_py())
            if mask is not None:
                hits.append(on_mask(heat, mask))
                coarse.append(on_mask(region, mask))
                covered.append(mask.mean())
                group.append(groups[row])
        tell(EvaluationProgress(done=min((batch.number + 1) * len(regions), len(true)), total=len(true)))
    if not hits:
        return None
    return pointing_game(np.array(hits), np.array(coarse), np.array(covered), np.array(group), layer)


def slice_picture(
    windows: Grey, heat: Maps, mask: npt.NDArray[np.bool_] | None, names: Sequence[str], tile: int = TILE
) -> Image.Image:
    """A slice in its windows, then the first one under the heat map, two tiles a row, each with its name.

    Args:
        windows: uint8 [h, w, 3], a window a channel.
        heat: float32 [h, w] in [0, 1].
        mask: where the truth is, which is outlined; None where nobody knows.
        names: of the windows; with one of them, all channels are that one.
        tile: side of a tile, in pixels.
    """
    grey = [window_tile(windows[..., channel], tile) for channel in range(len(names))]
    level = np.asarray(Image.fromarray(heat).resize((tile, tile), Image.Resampling.BILINEAR)).clip(0, 1)
    color = 255 * _HEAT(level)[..., :3]
    opacity = _OPACITY * level[..., None]
    overlaid = ((1 - opacity) * grey[0][..., None] + opacity * color).astype(np.uint8)
    if mask is not None:
        large = _resized(mask, tile)
        overlaid[large & ~ndimage.binary_erosion(large)] = _OUTLINE
    named = [*zip(grey, names, strict=True), (overlaid, "heat map" if heat.any() else EMPTY_MAP)]
    page = tiled(named, tile, below=LINE)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=12)
    left, top = tile + 20, page.height - LINE + 4
    bar = np.tile(255 * _HEAT(np.linspace(0, 1, tile - 40))[:, :3], (LINE - 8, 1, 1)).astype(np.uint8)
    page.paste(Image.fromarray(bar), (left, top))
    draw.text((left - 12, top - 3), "0", fill="white", font=font)
    draw.text((2 * tile - 14, top - 3), "1", fill="white", font=font)
    return page


def tiled(named: Sequence[tuple[Grey, str]], tile: int = TILE, below: int = 0) -> Image.Image:
    """Tiles, two a row, each under its name.

    Args:
        named: uint8 [tile, tile] or [tile, tile, 3] each, with a name.
        tile: their side in pixels.
        below: pixels that are left free below them.
    """
    rows = (len(named) + 1) // 2
    page = Image.new("RGB", (2 * tile, rows * (tile + LINE) + below), "black")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=12)
    for at, (picture, name) in enumerate(named):
        left, top = at % 2 * tile, at // 2 * (tile + LINE)
        draw.text((left + 4, top + 2), name, fill="white", font=font)
        page.paste(Image.fromarray(picture).convert("RGB"), (left, top + LINE))
    return page


def data_uri(picture: Image.Image) -> str:
    """A picture as a JPEG data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def readers_found(labels: npt.NDArray[np.int8]) -> str:
    """What readers found, in words."""
    subtypes = [name for name, value in zip(LABELS, labels, strict=True) if value == 1 and name != "any"]
    unknown = [f"{name} unknown" for name, value in zip(LABELS, labels, strict=True) if value == UNKNOWN]
    first = [] if subtypes or labels[ANY] != 1 else ["any"]
    return ", ".join(first + subtypes + unknown) or "no hemorrhage"


def window_tile(plane: Grey, tile: int = TILE) -> Grey:
    """A window of a slice, uint8 [h, w], as a tile."""
    return np.asarray(Image.fromarray(plane).resize((tile, tile), Image.Resampling.BICUBIC))


def _resized(mask: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.bool_]:
    """A mask at another size; a pixel is in it where its middle is."""
    at = ((np.arange(side) + 0.5) * mask.shape[0] / side).astype(np.int64)
    taken: npt.NDArray[np.bool_] = mask[np.ix_(at, at)]
    return taken


def likeliest(probability: npt.NDArray[np.float64]) -> str:
    """The two subtypes with the highest probabilities, float64 [6], in words; those that are nan are left out."""
    named = zip(LABELS, probability, strict=True)
    others = sorted(((p, name) for name, p in named if name != "any" and p == p), reverse=True)
    return ", ".join(f"{name} {p:.2f}" for p, name in others[:2])


def figure_of(one: WorstSlice, names: Sequence[str]) -> SliceFigure:
    """The slice as the report shows it, with the names of its windows."""
    return SliceFigure(
        kind=one.kind,
        key=one.key,
        picture=data_uri(slice_picture(one.windows, one.heat, one.mask, names)),
        p_any=float(one.probability[ANY]),
        others=likeliest(one.probability),
        readers=readers_found(one.labels),
        wrong=one.wrong,
        outlined=one.mask is not None,
        blank=not one.heat.any(),
    )
