"""The slices on which a network is most wrong, with windows and heat maps, and the pointing game on the others."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from PIL import Image
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


def strip(windows: Grey, heat: Maps, mask: npt.NDArray[np.bool_] | None, tile: int = TILE) -> Image.Image:
    """Three windows side by side, then the first one under the heat map, with the truth's outline where it is known."""
    grey = [_tile(windows[..., channel], tile) for channel in range(3)]
    level = np.asarray(Image.fromarray(heat).resize((tile, tile), Image.Resampling.BILINEAR)).clip(0, 1)
    color = 255 * _HEAT(level)[..., :3]
    opacity = _OPACITY * level[..., None]
    overlaid = ((1 - opacity) * grey[0][..., None] + opacity * color).astype(np.uint8)
    if mask is not None:
        large = _resized(mask, tile)
        overlaid[large & ~ndimage.binary_erosion(large)] = _OUTLINE
    tiles = [np.repeat(one[..., None], 3, axis=2) for one in grey]
    return Image.fromarray(np.concatenate([*tiles, overlaid], axis=1))


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


def _tile(plane: Grey, tile: int) -> Grey:
    return np.asarray(Image.fromarray(plane).resize((tile, tile), Image.Resampling.BICUBIC))


def _resized(mask: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.bool_]:
    """A mask at another size; a pixel is in it where its middle is."""
    at = ((np.arange(side) + 0.5) * mask.shape[0] / side).astype(np.int64)
    taken: npt.NDArray[np.bool_] = mask[np.ix_(at, at)]
    return taken


def figure_of(one: WorstSlice) -> SliceFigure:
    """The slice as the report shows it."""
    named = zip(LABELS, one.probability, strict=True)
    others = sorted(((p, name) for name, p in named if name != "any" and not np.isnan(p)), reverse=True)
    return SliceFigure(
        kind=one.kind,
        key=one.key,
        picture=data_uri(strip(one.windows, one.heat, one.mask)),
        p_any=float(one.probability[ANY]),
        others=", ".join(f"{name} {p:.2f}" for p, name in others[:2]),
        readers=readers_found(one.labels),
        wrong=one.wrong,
        outlined=one.mask is not None,
        blank=not one.heat.any(),
    )
