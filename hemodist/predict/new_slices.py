"""Probabilities for slices that nobody has labelled: from pictures drawn on the fly, or from a data set.

The same code decodes, scales and computes as when a checkpoint is scored (`loading.evaluation_batches`,
`scoring.run_network`), so the probabilities are those that sharding the slices and scoring them would give. The
probabilities of several checkpoints, such as those of a k-fold run, are averaged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hemodist.dataset.dataset import DataSet
from hemodist.dataset.index import read_rejected
from hemodist.dataset.labels import LABELS
from hemodist.dataset.manifest import REJECTED
from hemodist.errors import ConfigError
from hemodist.events import Tell
from hemodist.loading.dali_pipeline import Batch
from hemodist.loading.evaluation_batches import memory_batches, stored_batches
from hemodist.metrics.probabilities import probabilities, repair_any
from hemodist.models.trained import Trained, check_fits, joint_logits, views
from hemodist.predict.networks import networks, picture_settings, run_of
from hemodist.predict.options import Settings
from hemodist.predict.pictures import SlicePicture, pictures, write_heat_maps
from hemodist.scoring.run_network import logits_of, run_over_split
from hemodist.world import World

CORRUPT = "corrupt"
"""Why a data set's sample has no prediction: it does not match its checksum."""

HEAT_MAPS_AT_ONCE = 64
"""Pictures whose heat maps are computed together, at most."""


class DrawnFile(Protocol):
    """A file's picture, or why there is none. `shards.building.for_prediction` makes them."""

    @property
    def path(self) -> str:
        """Of the file, below the source."""

    @property
    def key(self) -> str:
        """Of the slice."""

    @property
    def name(self) -> str:
        """What the key is made of, as a person reads it."""

    @property
    def study(self) -> str | None:
        """Pseudonym of the study it belongs to."""

    @property
    def series(self) -> str | None:
        """Likewise of the series."""

    @property
    def encoded(self) -> bytes:
        """The picture."""

    @property
    def reason(self) -> str:
        """Why there is none; empty where there is one."""

    @property
    def detail(self) -> str:
        """The numbers."""


Draw = Callable[[Mapping[str, Any]], Sequence[DrawnFile]]


@dataclass(frozen=True)
class Chunk:
    """Some files, for one call of `predict_chunk`.

    Attributes:
        settings: how they are predicted.
        draw: gives the files' pictures, drawn as the sharder's configuration of a training data set says.
    """

    settings: Settings
    draw: Draw


@dataclass(frozen=True, eq=False)
class PredictedSlices:
    """Probabilities of slices, and the files that have none.

    Attributes:
        keys: of the slices; a heat map's file is named by it.
        names: of the slices, as a person reads them; the ID in the submission.
        paths: of the slices' files below the source; None for a data set, which knows none.
        studies: of the slices, pseudonyms; None where the file does not say.
        series: likewise.
        probability: float64 [n, 6]; NaN for a label that no network has learned.
        rejected: path, reason and detail of each file without a prediction.
    """

    keys: list[str]
    names: list[str]
    paths: list[str | None]
    studies: list[str | None]
    series: list[str | None]
    probability: npt.NDArray[np.float64]
    rejected: list[tuple[str, str, str]]


def predict_chunk(chunk: Chunk) -> PredictedSlices:
    """Predict the files of a chunk; every file gets a probability or a reason."""
    settings = chunk.settings
    members = networks(settings.checkpoints)
    drawn: dict[str, Sequence[DrawnFile]] = {}  # checkpoints of one data set see the same pictures
    for member in members:
        if (look := picture_settings(member)) not in drawn:
            drawn[look] = chunk.draw(member.sharding)
    first = drawn[picture_settings(members[0])]
    rejected = [(one.path, one.reason, one.detail) for one in first if one.reason]
    good = [i for i, one in enumerate(first) if not one.reason]
    if not good:
        return PredictedSlices([], [], [], [], [], np.empty((0, len(LABELS))), rejected)
    device = torch.device(settings.device)

    def batches_of(member: Trained, chosen: npt.NDArray[np.int64]) -> Iterator[Batch]:
        encoded = [drawn[picture_settings(member)][good[i]].encoded for i in chosen]
        return memory_batches(encoded, member.sharding, run_of(member, settings), device)

    everything = np.arange(len(good))
    logits = [_logits(member, batches_of(member, everything), settings, device) for member in members]
    probability = _probability(members, logits, settings)
    taken = [first[i] for i in good]
    found = PredictedSlices(
        [one.key for one in taken], [one.name for one in taken], [one.path for one in taken],
        [one.study for one in taken], [one.series for one in taken], probability, rejected,
    )  # fmt: skip
    write_heat_maps(members, batches_of, found.keys, found.names, found.probability, settings, HEAT_MAPS_AT_ONCE)
    return found


def pictures_of_files(settings: Settings, draw: Draw) -> dict[str, SlicePicture]:
    """The pictures of some files by key; the heat map is of the mean of the networks' maps."""
    members, drawn = networks(settings.checkpoints), dict[str, Sequence[DrawnFile]]()
    device = torch.device(settings.device)

    def batches_of(member: Trained, chosen: npt.NDArray[np.int64]) -> Iterator[Batch]:
        if (look := picture_settings(member)) not in drawn:
            drawn[look] = draw(member.sharding)
        encoded = [drawn[look][i].encoded for i in chosen]
        return memory_batches(encoded, member.sharding, run_of(member, settings), device)

    keys = [one.key for one in draw(members[0].sharding)]
    made = pictures(members, batches_of, np.arange(len(keys)), settings, HEAT_MAPS_AT_ONCE)
    return {keys[at]: picture for at, picture in made}


def pictures_of_samples(settings: Settings, dataset: DataSet, keys: Collection[str]) -> dict[str, SlicePicture]:
    """As `pictures_of_files`, of samples of a data set."""
    members, device = networks(settings.checkpoints), torch.device(settings.device)
    every = dataset.index.column("key").to_pylist()
    rows = np.array([row for row, key in enumerate(every) if key in keys], np.int64)

    def batches_of(member: Trained, chosen: npt.NDArray[np.int64]) -> Iterator[Batch]:
        return stored_batches(dataset, rows[chosen], run_of(member, settings), device)

    made = pictures(members, batches_of, np.arange(len(rows)), settings, 1)
    return {every[rows[at]]: picture for at, picture in made}


def predict_dataset(settings: Settings, dataset: DataSet, tell: Tell) -> PredictedSlices:
    """Predict every sample of a data set, duplicates too; its rejected files keep their reasons.

    Raises:
        ConfigError: a checkpoint was trained on other pictures.
    """
    members = networks(settings.checkpoints)
    device = torch.device(settings.device)
    every = np.arange(len(dataset.index))
    parts = []
    for member in members:
        check_fits(member, dataset)
        run = run_of(member, settings)
        seen = views(run.augment) if settings.tta else ((),)
        network = member.network.to(device)
        parts.append(run_over_split(network, dataset, every, run, World.alone(device), tell, seen))
    # A corrupt sample has no probability.
    rows = functools.reduce(np.intersect1d, (part.rows for part in parts))
    logits = [torch.from_numpy(part.logits[np.isin(part.rows, rows)]) for part in parts]

    def batches_of(member: Trained, chosen: npt.NDArray[np.int64]) -> Iterator[Batch]:
        return stored_batches(dataset, rows[chosen], run_of(member, settings), device)

    probability = _probability(members, logits, settings)
    all_keys = dataset.index.column("key").to_pylist()
    taken = dataset.index.take(pa.array(rows))
    keys = taken.column("key").to_pylist()
    refused = read_rejected(dataset.store.read(REJECTED), f"{dataset.store.uri}/{REJECTED}").to_pylist()
    reasons = [(row["path"], row["reason"], row["detail"]) for row in refused]
    reasons += [(all_keys[row], CORRUPT, "not what its checksum says") for row in np.setdiff1d(every, rows)]
    found = PredictedSlices(
        keys, [name_of_key(key) for key in keys], [None] * len(keys), taken.column("study").to_pylist(),
        taken.column("series").to_pylist(), probability, reasons,
    )  # fmt: skip
    # One at a time: each may lie in another shard, and a small cache has no room for all of them.
    write_heat_maps(members, batches_of, found.keys, found.names, found.probability, settings, 1)
    return found


def name_of_key(key: str) -> str:
    """The name that a data set's key was made of; a key that was cut, `==` before its hash, stays as it is.

    >>> name_of_key("ward=20a/1=2E2=2E3"), name_of_key("ID_1")
    ('ward a/1.2.3', 'ID_1')
    """
    if "==" in key:
        return key
    return unquote_to_bytes(key.replace("=", "%")).decode("utf-8", "backslashreplace")


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
    learned = [member.learned for member in members]
    probability = probabilities(joint_logits(logits, learned).numpy(), np.any(learned, axis=0))
    return repair_any(probability) if settings.repair_any else probability
