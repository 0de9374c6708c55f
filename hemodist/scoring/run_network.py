"""Runs a trained network over a whole split, on all ranks, each sample once."""

from __future__ import annotations

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
from hemodist.loading.dali_pipeline import MEAN, STD
from hemodist.loading.evaluation_batches import stored_batches
from hemodist.metrics.predictions import Predictions
from hemodist.models.trained import View, mean_logits
from hemodist.world import World

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
    """Run the network over `rows`. Every rank computes its part and gets the predictions of all.

    Ranks take whole batches of the split, so that each batch holds the same slices on any number of ranks.

    Args:
        model: maps float [b, 3, h, w] to logits [b, 6]; not DDP-wrapped, since ranks may take unequal numbers of steps.
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
    was_training = model.training
    model.eval()
    world.share_buffers(model)
    kept, logits, blood = [own[:0]], [np.empty((0, len(LABELS)), np.float32)], [np.empty(0)]
    with torch.inference_mode():
        for batch in stored_batches(dataset, own, run, world.device):
            output = logits_of(model, batch.images, run, world.device, views)
            whole = batch.weights.cpu().numpy() > 0
            kept.append(batch.rows[whole])
            logits.append(output.float().cpu().numpy()[whole])
            blood.append(blood_of(batch.images)[whole])
            tell(EvaluationProgress(done=min((batch.number + 1) * size, len(own)), total=len(own)))
    model.train(was_training)
    parts = world.gather((np.concatenate(kept), np.concatenate(logits), np.concatenate(blood)))
    predictions = Predictions(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    missing = len(rows) - len(predictions.rows)
    if missing:
        tell(Note(f"{missing} of {len(rows)} samples are corrupt and are not scored"))
    return predictions


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


def blood_fraction(windows: list[dict[str, float]]) -> Callable[[torch.Tensor], npt.NDArray[np.float64]]:
    """A function from normalised images [b, 3, h, w] to the share of pixels in `BLOOD_HU`, float64 [b].

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
        return lambda images: np.full(len(images), np.nan)
    channel = min(fitting)[1]
    window = windows[channel]
    bottom = window["center"] - window["width"] / 2
    # White is left out: it is anything above the window, mostly bone.
    bounds = [min((hu - bottom) / window["width"], 254 / 255) for hu in BLOOD_HU]
    lower, upper = ((bound - MEAN[channel]) / STD[channel] for bound in bounds)

    def fraction(images: torch.Tensor) -> npt.NDArray[np.float64]:
        plane = images[:, channel]
        share: npt.NDArray[np.float64] = ((plane >= lower) & (plane < upper)).double().mean(dim=(1, 2)).cpu().numpy()
        return share

    return fraction
