"""Runs a trained network over a whole split, on all ranks, each sample once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hemodist.config.run import Run
from hemodist.config.shares import eval_bounds
from hemodist.dataset.dataset import DataSet
from hemodist.dataset.labels import LABELS
from hemodist.events import EvaluationProgress, Note, Tell
from hemodist.loading.evaluation_batches import stored_batches
from hemodist.loading.pixels import MEAN, STD
from hemodist.metrics.predictions import Predictions
from hemodist.models.trained import View, mean_logits
from hemodist.world import HostCopy, World

BEHIND = 2
"""Batches that the host may be ahead of the device, whose memory holds as many more."""

BLOOD_HU = (50.0, 80.0)
"""Attenuation of acute hemorrhage in HU: in a brain window it is bright, but not white."""


def run_over_split(
    model: nn.Module,
    dataset: DataSet,
    rows: npt.NDArray[np.int64],
    run: Run,
    world: World,
    tell: Tell,
    views: Sequence[View] = ((),),
) -> Predictions:
    """As `run_each_over_split`, of one network."""
    return run_each_over_split([model], dataset, rows, run, world, tell, views)[0]


def run_each_over_split(
    models: Sequence[nn.Module],
    dataset: DataSet,
    rows: npt.NDArray[np.int64],
    run: Run,
    world: World,
    tell: Tell,
    views: Sequence[View] = ((),),
) -> list[Predictions]:
    """Run networks over `rows`. Every rank computes its part and gets the predictions of all, in the networks' order.

    Ranks take whole batches of the split, so that each batch holds the same slices on any number of ranks. Each is read
    once, for all networks.

    Args:
        models: each maps float [b, 3, h, w] to logits [b, 6]; not DDP-wrapped, since ranks may take unequal numbers of
            steps.
        dataset: the data set.
        rows: int64 [n], rows of the index.
        run: batch size, image size, cache and corrupt-sample policy.
        world: the ranks.
        tell: told of this rank's progress after each batch.
        views: flips whose probabilities are averaged.
    """
    size = run.batch.eval_batch_size
    start, stop = eval_bounds(-(-len(rows) // size), world.rank, world.size)
    own = rows[start * size : stop * size]
    blood_of = blood_fraction(dataset.manifest.config["windows"])
    was_training = [model.training for model in models]
    for model in models:
        model.eval()
        world.share_buffers(model)
    found = [(own[:0], np.empty((0, 1 + len(LABELS) * len(models))))]
    late = deque[tuple[npt.NDArray[np.int64], HostCopy]]()

    def look(behind: int) -> None:
        while len(late) > behind:
            of_batch, copy = late.popleft()
            values = copy.read().numpy()
            whole = values[:, 0] > 0
            found.append((of_batch[whole], values[whole, 1:]))

    with torch.inference_mode():
        for batch in stored_batches(dataset, own, run, world.device):
            columns = [batch.weights[:, None], blood_of(batch.images)[:, None]]  # float64, which holds float32 exactly
            columns += [logits_of(model, batch.images, run, world.device, views) for model in models]
            late.append((batch.rows, HostCopy(torch.cat([column.double() for column in columns], dim=1))))
            look(BEHIND)
            tell(EvaluationProgress(done=min((batch.number + 1) * size, len(own)), total=len(own)))
        look(0)
    for model, training in zip(models, was_training, strict=True):
        model.train(training)
    parts = world.gather(tuple(np.concatenate(part) for part in zip(*found, strict=True)))
    kept, outputs = (np.concatenate(part) for part in zip(*parts, strict=True))
    missing = len(rows) - len(kept)
    if missing:
        tell(Note(f"{missing} of {len(rows)} samples are corrupt and are not scored"))
    blood, *columns_of = np.split(outputs, np.arange(len(models)) * len(LABELS) + 1, axis=1)
    return [Predictions(kept, columns.astype(np.float32, order="C"), blood[:, 0].copy()) for columns in columns_of]


def logits_of(
    model: nn.Module, images: torch.Tensor, run: Run, device: torch.device, views: Sequence[View] = ((),)
) -> torch.Tensor:
    """Logits [b, 6] of normalised images [b, 3, h, w], in the run's precision; of the mean probability over `views`."""
    found = []
    for view in views:
        with autocast_on(run, device):
            found.append(model(torch.flip(images, view) if view else images))
    return found[0] if len(found) == 1 else mean_logits(found)


def autocast_for(run: Run, world: World) -> AbstractContextManager[Any]:
    """The precision of the forward pass: bf16 on GPUs and fp32 on CPUs, unless the run says otherwise."""
    return autocast_on(run, world.device)


def autocast_on(run: Run, device: torch.device) -> AbstractContextManager[Any]:
    """As `autocast_for`, on a device."""
    bf16 = run.scaling.precision == "bf16" or (run.scaling.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def blood_fraction(windows: list[dict[str, float]]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from normalised images [b, 3, h, w] to the share of pixels in `BLOOD_HU`, float64 [b] on their device.

    Args:
        windows: the data set's, each with `center` and `width` in HU. The narrowest that resolves the range is used;
            without any, the function returns NaN.
    """
    low, high = BLOOD_HU
    fitting = [
        (window["width"], channel)
        for channel, window in enumerate(windows)
        if window["center"] - window["width"] / 2 < low and window["center"] + window["width"] / 2 >= high
    ]
    if not fitting:
        return lambda images: images.new_full((len(images),), torch.nan, dtype=torch.float64)
    channel = min(fitting)[1]
    window = windows[channel]
    bottom = window["center"] - window["width"] / 2
    # White is left out: it is anything above the window, mostly bone.
    bounds = [min((hu - bottom) / window["width"], 254 / 255) for hu in BLOOD_HU]
    lower, upper = ((bound - MEAN[channel]) / STD[channel] for bound in bounds)

    def fraction(images: torch.Tensor) -> torch.Tensor:
        plane = images[:, channel]
        return ((plane >= lower) & (plane < upper)).double().mean(dim=(1, 2))

    return fraction
