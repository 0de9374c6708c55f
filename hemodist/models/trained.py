"""A trained network, built from its checkpoint, with the run and the kind of pictures that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hemodist.config.data import AugmentConfig
from hemodist.config.run import Run
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.dataset.manifest import DatasetError, check_pictures
from hemodist.errors import ConfigError
from hemodist.models.checkpoint_file import CheckpointError
from hemodist.models.checkpoints import open_checkpoint
from hemodist.models.fold_runs import is_fold_runs
from hemodist.models.network import build_network, last_linear

PICTURE_FIELDS = ("windows", "size", "encoding", "quality", "crop_head")
"""Fields of the sharder's configuration that decide how a picture looks."""

View = tuple[int, ...]
"""One view of a picture for test-time augmentation: the axes of [b, 3, h, w] that are flipped."""


@dataclass(frozen=True)
class Trained:
    """A checkpoint that was checked, with its network.

    Attributes:
        where: the checkpoint, as it was named.
        saved: its content.
        run: the configuration of its run.
        network: in evaluation mode, on the CPU; maps float [b, 3, h, w] to logits [b, 6].
    """

    where: str
    saved: dict[str, Any]
    run: Run
    network: nn.Module

    @property
    def sharding(self) -> dict[str, Any]:
        """The sharder's configuration of the data set that it was trained on."""
        recorded: dict[str, Any] = self.saved["sharding"]
        return recorded

    @property
    def kinds(self) -> npt.NDArray[np.int8]:
        """How many kinds (positive, negative) of each label the training knew, int8 [6].

        Checkpoints of version 0.1.0 do not say; both then.
        """
        return np.array(self.saved.get("kinds", [2] * len(LABELS)), np.int8)

    @property
    def learned(self) -> npt.NDArray[np.bool_]:
        """The labels that it has learned, bool [6]: those of which the training knew both kinds."""
        learned: npt.NDArray[np.bool_] = self.kinds == 2
        return learned

    @property
    def prevalence(self) -> npt.NDArray[np.float64]:
        """The training split's `plan.prepare.prevalence`, float64 [6]."""
        return np.array(self.saved["prevalence"], np.float64)

    @property
    def synthetic(self) -> bool:
        """Whether it was trained on phantoms."""
        return bool(self.sharding.get("synthetic"))

    @property
    def step(self) -> int:
        """Optimizer updates made."""
        return int(self.saved["state"]["step"])


def folder_of(checkpoint: str) -> str:
    """The run's folder of a checkpoint, given as that folder or as a `.pt` file below it.

    >>> folder_of("runs/a/checkpoints/step-00000001.pt"), folder_of("x.pt"), folder_of("runs/a/")
    ('runs/a', '.', 'runs/a')
    """
    if not checkpoint.endswith(".pt"):
        return checkpoint.rstrip("/")
    folder = checkpoint.rpartition("/")[0] or ("/" if checkpoint.startswith("/") else ".")
    return folder.removesuffix("/checkpoints")


def open_trained(where: str) -> Trained:
    """Open a run's folder (its best checkpoint) or a `.pt` file, and build its network.

    Raises:
        CheckpointError: there is none, it is damaged, or its network does not answer hemodist's six labels.
        ConfigError: it was written by another version.
    """
    if is_fold_runs(where):
        raise CheckpointError(f"{where} is a k-fold run, and this wants one network; give the run of a fold, below it")
    saved = open_checkpoint(where)
    run = Run.from_dict(saved["run"])
    if missing := [name for name in ("sharding", "prevalence") if name not in saved]:
        raise CheckpointError(f"{where} lacks {' and '.join(missing)}; train again with this version of hemodist")
    try:
        check_pictures(saved["sharding"], where)
    except DatasetError as error:
        raise CheckpointError(str(error)) from None
    labels = tuple(saved.get("labels", LABELS))
    if labels != LABELS:
        raise CheckpointError(
            f"{where} was trained on the labels {', '.join(map(str, labels))}; this hemodist knows "
            f"{', '.join(LABELS)}, in this order; take a checkpoint of those, or train again"
        )
    for name in ("prevalence", "kinds"):
        if name in saved and len(saved[name]) != len(LABELS):
            raise CheckpointError(f"{where} records the {name} of {len(saved[name])} labels, not {len(LABELS)}")
    network = build_network(run.model)
    _load(network, saved["scored"], where, run.model.name)
    return Trained(where, saved, run, network.eval())


def check_fits(trained: Trained, dataset: DataSet) -> None:
    """Check that a data set shows what the network was trained on.

    Raises:
        ConfigError: naming what differs.
    """
    given = dataset.manifest.config
    channels = [len(sharding["windows"]) for sharding in (trained.sharding, given)]
    if channels[0] != channels[1]:
        raise ConfigError(
            f"{trained.where} was trained on {_channels(channels[0])} ({_windows(trained.sharding)}), "
            f"{dataset.store.uri} has {_channels(channels[1])} ({_windows(given)}); "
            "shard the data set again with the windows that the checkpoint was trained on"
        )
    for name in PICTURE_FIELDS:
        before, now = (sharding.get(name) for sharding in (trained.sharding, given))
        if name in ("encoding", "quality") or before == now:  # how pictures are compressed is not seen in them
            continue
        if name == "windows":
            before, now = _windows(trained.sharding), _windows(given)
        raise ConfigError(
            f"{trained.where} was trained on slices with {name} {before}, {dataset.store.uri} has {now}; "
            "shard the data set again with what the checkpoint was trained on"
        )


def views(augment: AugmentConfig) -> tuple[View, ...]:
    """The views for test-time augmentation: the picture as it is, and with each flip that training drew.

    Raises:
        ConfigError: training flipped nothing, so the network knows no flipped head.
    """
    across: list[View] = [(), (3,)] if augment.flip_horizontal else [()]
    down: list[View] = [(), (2,)] if augment.flip_vertical else [()]
    found = tuple(one + other for one in across for other in down)
    if len(found) == 1:
        raise ConfigError(
            "the run was trained without flips (augment.flip_horizontal and augment.flip_vertical are 0), so there is "
            "no other view to average over; leave --tta out"
        )
    return found


def mean_logits(logits: Sequence[torch.Tensor]) -> torch.Tensor:
    """The logits of the mean probability over views or networks, float64 [b, 6]; exact in the tails too."""
    stacked = torch.stack([one.double() for one in logits])
    log = nn.functional.logsigmoid
    return torch.logsumexp(log(stacked), 0) - torch.logsumexp(log(-stacked), 0)


def joint_logits(logits: Sequence[torch.Tensor], learned: Sequence[npt.NDArray[np.bool_]]) -> torch.Tensor:
    """The logits of the mean probability over networks, of each label over those that have learned it.

    Args:
        logits: of each network, [b, 6].
        learned: bool [6], of each network; where none has learned a label, the first one's logits stand for it.

    Returns:
        float64 [b, 6].
    """
    columns = []
    for i in range(len(LABELS)):
        of_label = [one[:, i] for one, known in zip(logits, learned, strict=True) if known[i]]
        columns.append(of_label[0] if len(of_label) == 1 else mean_logits(of_label or [logits[0][:, i]]))
    return torch.stack([column.double() for column in columns], dim=1)


def _load(network: nn.Module, state: Mapping[str, torch.Tensor], where: str, name: str) -> None:
    own = network.state_dict()
    head = last_linear(network) or "classifier.1"
    weight = state.get(f"{head}.weight")
    if weight is not None and weight.shape[0] != len(LABELS):
        raise CheckpointError(
            f"{where} gives {weight.shape[0]} outputs, this hemodist has {len(LABELS)} labels ({', '.join(LABELS)}); "
            "take a checkpoint of those, or train again"
        )
    first = next(key for key, value in own.items() if value.dim() == 4)
    if first in state and state[first].dim() == 4 and state[first].shape[1] != own[first].shape[1]:
        raise CheckpointError(
            f"{where} takes images of {state[first].shape[1]} channels, hemodist's networks take "
            f"{own[first].shape[1]}; take another checkpoint, or train again"
        )
    wrong = sorted(key for key in own.keys() | state.keys() if key not in own or key not in state)
    wrong += [key for key in own if key in state and own[key].shape != state[key].shape]
    if wrong:
        raise CheckpointError(
            f"{where} does not hold the weights of {name}: {len(wrong)} tensors are missing, unknown or of another "
            f"shape ({', '.join(wrong[:3])}); it was written by another version"
        )
    network.load_state_dict(state)


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def window_names(sharding: Mapping[str, Any]) -> list[str]:
    """Name, center and width in HU of each window that a sharder's configuration names, such as `brain 40/80`."""
    return [f"{w['name']} {w['center']:g}/{w['width']:g}" for w in sharding["windows"]]


def _windows(sharding: Mapping[str, Any]) -> str:
    return ", ".join(window_names(sharding))
