"""Probabilities for slices that nobody has labelled: from pictures drawn on the fly, or from a data set.

The same code decodes, scales and computes as when a checkpoint is scored (`loading.evaluation_batches`,
`scoring.run_network`), so the probabilities are those that sharding the slices and scoring them would give. The
probabilities of several checkpoints, such as those of a k-fold run, are averaged.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageDraw

from hemodist.config.run import Run
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.dataset.manifest import REJECTED
from hemodist.errors import ConfigError
from hemodist.events import Tell
from hemodist.loading.dali_pipeline import Batch
from hemodist.loading.evaluation_batches import grey_values, memory_batches, stored_batches
from hemodist.metrics.probabilities import probabilities, repair_any
from hemodist.models.trained import PICTURE_FIELDS, Trained, check_fits, mean_logits, open_trained, views
from hemodist.predict.options import PredictConfig, Settings
from hemodist.scoring.heat_maps import Maps, heat_maps, target_layer
from hemodist.scoring.run_network import logits_of, run_over_split
from hemodist.scoring.worst_slices import strip
from hemodist.storage.store import Store
from hemodist.world import World

CORRUPT = "corrupt"
"""Why a data set's sample has no prediction: it does not match its checksum."""

HEAT_MAPS_AT_ONCE = 64
"""Pictures whose heat maps are computed together, at most."""

HEAT_MAP_TILE = 256
"""Side of a tile of a heat map's PNG, in pixels."""


class DrawnFile(Protocol):
    """A file's picture, or why there is none. `shards.building.for_prediction` makes them."""

    @property
    def path(self) -> str:
        """Of the file, below the source."""

    @property
    def key(self) -> str:
        """Of the slice."""

    @property
    def study(self) -> str | None:
        """The study it belongs to."""

    @property
    def encoded(self) -> bytes:
        """The picture."""

    @property
    def reason(self) -> str:
        """Why there is none; empty where there is one."""

    @property
    def detail(self) -> str:
        """The numbers."""


@dataclass(frozen=True)
class Chunk:
    """Some files, for one call of `predict_chunk`.

    Attributes:
        settings: how they are predicted.
        draw: gives the files' pictures, drawn as the sharder's configuration of a training data set says.
    """

    settings: Settings
    draw: Callable[[Mapping[str, Any]], Sequence[DrawnFile]]


@dataclass(frozen=True, eq=False)
class PredictedSlices:
    """Probabilities of slices, and the files that have none.

    Attributes:
        keys: of the slices.
        studies: of the slices; None where the file does not say.
        probability: float64 [n, 6]; NaN for a label that no network has learned.
        rejected: path, reason and detail of each file without a prediction.
    """

    keys: list[str]
    studies: list[str | None]
    probability: npt.NDArray[np.float64]
    rejected: list[tuple[str, str, str]]


def settings_of(config: PredictConfig) -> Settings:
    """What every chunk is told, with absolute paths, since workers have another working directory.

    Raises:
        ConfigError: the device that is asked for is not there.
    """
    gpu = torch.cuda.is_available() and not config.workers
    if config.device == "cuda" and not gpu:
        raise ConfigError("device cuda needs a GPU in this process and --workers 0; use --device auto")
    checkpoints = (config.checkpoint, *config.ensemble)
    return Settings(
        checkpoints=tuple(one if "://" in one else str(Path(one).expanduser().resolve()) for one in checkpoints),
        tta=config.tta,
        repair_any=config.repair_any,
        explain=None if config.explain is None else Store.open(config.explain).uri,
        explain_above=config.explain_above,
        eval_batch_size=config.eval_batch_size,
        cache=None if config.cache is None else str(Path(config.cache).expanduser().resolve()),
        cache_gb=config.cache_gb,
        device="cuda" if gpu and config.device != "cpu" else "cpu",
    )


def check_settings(settings: Settings) -> tuple[Trained, ...]:
    """Open all checkpoints, and check that each can do what is asked for.

    Raises:
        UserError: one cannot be read, or cannot do what is asked for.
    """
    members = _networks(settings.checkpoints)
    for member in members:
        if settings.tta:
            views(member.run.augment)
        if settings.explain is not None:
            target_layer(member.network, member.run.model.image_size)
    return members


def predict_chunk(chunk: Chunk) -> PredictedSlices:
    """Predict the files of a chunk; every file gets a probability or a reason."""
    settings = chunk.settings
    members = _networks(settings.checkpoints)
    drawn: dict[str, Sequence[DrawnFile]] = {}  # checkpoints of one data set see the same pictures
    for member in members:
        if (look := _picture_settings(member)) not in drawn:
            drawn[look] = chunk.draw(member.sharding)
    first = drawn[_picture_settings(members[0])]
    rejected = [(one.path, one.reason, one.detail) for one in first if one.reason]
    good = [i for i, one in enumerate(first) if not one.reason]
    if not good:
        return PredictedSlices([], [], np.empty((0, len(LABELS))), rejected)
    device = torch.device(settings.device)

    def batches_of(member: Trained, chosen: npt.NDArray[np.int64]) -> Iterator[Batch]:
        encoded = [drawn[_picture_settings(member)][good[i]].encoded for i in chosen]
        return memory_batches(encoded, member.sharding, _run_of(member, settings), device)

    everything = np.arange(len(good))
    logits = [_logits(member, batches_of(member, everything), settings, device) for member in members]
    probability = _probability(members, logits, settings)
    keys, studies = [first[i].key for i in good], [first[i].study for i in good]
    _write_heat_maps(members, batches_of, keys, probability, settings, HEAT_MAPS_AT_ONCE)
    return PredictedSlices(keys, studies, probability, rejected)


def predict_dataset(settings: Settings, dataset: DataSet, tell: Tell) -> PredictedSlices:
    """Predict every sample of a data set, duplicates too; its rejected files keep their reasons.

    Raises:
        ConfigError: a checkpoint was trained on other pictures.
    """
    members = _networks(settings.checkpoints)
    device = torch.device(settings.device)
    every = np.arange(len(dataset.index))
    parts = []
    for member in members:
        check_fits(member, dataset)
        run = _run_of(member, settings)
        seen = views(run.augment) if settings.tta else ((),)
        network = member.network.to(device)
        parts.append(run_over_split(network, dataset, every, run, World.alone(device), tell, seen))
    # A corrupt sample has no probability.
    rows = functools.reduce(np.intersect1d, (part.rows for part in parts))
    logits = [torch.from_numpy(part.logits[np.isin(part.rows, rows)]) for part in parts]

    def batches_of(member: Trained, chosen: npt.NDArray[np.int64]) -> Iterator[Batch]:
        return stored_batches(dataset, rows[chosen], _run_of(member, settings), device)

    probability = _probability(members, logits, settings)
    all_keys = dataset.index.column("key").to_pylist()
    taken = dataset.index.take(pa.array(rows))
    keys = taken.column("key").to_pylist()
    # One at a time: each may lie in another shard, and a small cache has no room for all of them.
    _write_heat_maps(members, batches_of, keys, probability, settings, 1)
    refused = pq.read_table(io.BytesIO(dataset.store.read(REJECTED))).to_pylist()
    reasons = [(row["path"], row["reason"], row["detail"]) for row in refused]
    reasons += [(all_keys[row], CORRUPT, "not what its checksum says") for row in np.setdiff1d(every, rows)]
    return PredictedSlices(keys, taken.column("study").to_pylist(), probability, reasons)


@functools.lru_cache(maxsize=1)
def _networks(checkpoints: tuple[str, ...]) -> tuple[Trained, ...]:
    return tuple(open_trained(where) for where in checkpoints)


def _picture_settings(member: Trained) -> str:
    """What decides how the pictures of a checkpoint look, as text."""
    return json.dumps([member.sharding.get(name) for name in PICTURE_FIELDS])


def _run_of(member: Trained, settings: Settings) -> Run:
    run = member.run
    given = {name: value for name in ("cache", "cache_gb") if (value := getattr(settings, name)) is not None}
    size = run.batch.eval_batch_size if settings.eval_batch_size is None else settings.eval_batch_size
    batch = replace(run.batch, eval_batch_size=size)
    # A corrupt sample is a row of the rejected ones, whatever the training did with such.
    return replace(run, batch=batch, data=replace(run.data, on_corrupt="mask", **given))


def _logits(member: Trained, batches: Iterator[Batch], settings: Settings, device: torch.device) -> torch.Tensor:
    seen = views(member.run.augment) if settings.tta else ((),)
    network = member.network.to(device)
    with torch.inference_mode():
        found = [logits_of(network, batch.images, member.run, device, seen).float().cpu() for batch in batches]
    return torch.cat(found)


def _probability(
    members: Sequence[Trained], logits: Sequence[torch.Tensor], settings: Settings
) -> npt.NDArray[np.float64]:
    """Probabilities, float64 [n, 6], averaged over the networks that have learned a label; NaN where none has."""
    bad = [where for where, one in zip(settings.checkpoints, logits, strict=True) if not torch.isfinite(one).all()]
    if bad:
        raise ConfigError(f"{', '.join(bad)} gives outputs that are not finite; its training diverged, take another")
    columns = []
    for i in range(len(LABELS)):
        of_label = [one[:, i] for member, one in zip(members, logits, strict=True) if member.learned[i]]
        columns.append(of_label[0] if len(of_label) == 1 else mean_logits(of_label or [logits[0][:, i]]))
    mean = torch.stack([column.double() for column in columns], dim=1)
    probability = probabilities(mean.numpy(), np.any([member.learned for member in members], axis=0))
    return repair_any(probability) if settings.repair_any else probability


def _write_heat_maps(
    members: Sequence[Trained],
    batches_of: Callable[[Trained, npt.NDArray[np.int64]], Iterator[Batch]],
    keys: Sequence[str],
    probability: npt.NDArray[np.float64],
    settings: Settings,
    at_once: int,
) -> None:
    """Write a PNG for each slice with P(any) above the bound: the mean of the networks' maps, each in [0, 1]."""
    above = -1.0 if settings.explain_above is None else settings.explain_above
    chosen = np.flatnonzero(probability[:, LABELS.index("any")] > above)
    if settings.explain is None or not len(chosen):
        return
    store = Store.open(settings.explain)
    layers = [target_layer(member.network, member.run.model.image_size) for member in members]
    # One size for all, so that the networks look at the same slices at a time.
    size = min(at_once, *(_run_of(member, settings).batch.eval_batch_size for member in members))
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        maps: list[Maps] = []
        grey: npt.NDArray[np.uint8] = np.empty((0, 0, 0, 3), np.uint8)
        for member, layer in zip(members, layers, strict=True):
            (batch,) = batches_of(member, part)
            maps.append(heat_maps(member.network, batch.images, "any", layer))
            grey = grey if len(grey) else grey_values(batch.images)
        for picture, at, *heats in zip(grey, part.tolist(), *maps, strict=True):
            heat: Maps = np.stack([_scaled(one, grey.shape[1]) for one in heats]).mean(axis=0)
            store.write(f"{keys[at]}.png", heat_map_png(picture, heat, keys[at], probability[at]))


def heat_map_png(windows: npt.NDArray[np.uint8], heat: Maps, key: str, probability: npt.NDArray[np.float64]) -> bytes:
    """PNG of a slice: its windows, the first one under the heat map, and the probabilities in a line above."""
    picture = strip(windows, heat, None, HEAT_MAP_TILE)
    page = Image.new("RGB", (picture.width, picture.height + 24), "black")
    page.paste(picture, (0, 24))
    said = "   ".join(f"{name} {p:.3f}" for name, p in zip(LABELS, probability, strict=True) if not np.isnan(p))
    ImageDraw.Draw(page).text((6, 6), f"{key}   {said}", fill="white")
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()


def _scaled(heat: Maps, side: int) -> Maps:
    if heat.shape[0] == side:
        return heat
    return np.asarray(Image.fromarray(heat).resize((side, side), Image.Resampling.BILINEAR))
