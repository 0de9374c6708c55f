"""How a measured loader talks to the one who measures: lines on standard input, JSON on standard output.

Each way of loading is a process of its own, so that none slows another down by its threads, its allocator or its
version of a library. This module and its caller import nothing but what the way itself needs: a way may live in an
environment without hemodist's other dependencies.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TextIO

import numpy as np
import torch

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""The pipeline's own, in units of the full range; repeated since the pipeline cannot be imported everywhere."""

Epoch = Callable[[], Iterator[torch.Tensor]]
"""Starts one pass; its batches are float32 [b, 3, size, size], normalised, channels last in memory, on `device`."""


@dataclass(frozen=True)
class Spec:
    """What is to be loaded, and by what means.

    Attributes:
        dataset: folder of a data set of hemodist, whose images are stored at the network's size.
        work: folder for copies in other formats; kept between processes of one bench.
        samples: of the data set.
        size: side of the images in pixels.
        batch: samples in a batch.
        cores: CPUs that may be used; DALI takes a thread for each.
        workers: processes of PyTorch's DataLoader; 0 loads in the main process.
        normalise: where PyTorch's ways convert to floating point: in the worker, or once a batch in the main process.
        decoder: of PyTorch's ways, which is also the backend of their transforms.
        augment: strengths of the augmentation, the fields of `AugmentConfig`; None for none.
        shuffle: as for training; without, in the data set's order.
        device: where the batch must be, `cpu` or `cuda`.
        warm: batches before the clock starts, more than any way has in stock.
        timed: batches while it runs.
    """

    dataset: str
    work: str
    samples: int
    size: int
    batch: int
    cores: tuple[int, ...]
    workers: int = 2
    normalise: str = "worker"
    decoder: str = "pil"
    augment: Mapping[str, float] | None = None
    shuffle: bool = True
    device: str = "cpu"
    warm: int = 8
    timed: int = 40

    def to_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """What `to_json` wrote."""
        values = json.loads(text)
        return cls(**values | {"cores": tuple(values["cores"])})


def serve(
    open_: Callable[[Spec], Epoch], prepare: Callable[[Spec], None] | None = None, *, endless: bool = False
) -> None:
    """Answer until standard input ends.

    The first argument of the command line is a `Spec`. The first line that is written tells the seconds until the
    first batch was there. `go` runs some batches, then times others; `save FILE` writes the first batch, where
    nothing is shuffled, as a float32 array [b, 3, size, size].

    Args:
        open_: builds the loader; what it returns starts a pass.
        prepare: writes the copy in another format, if there is none yet; not timed.
        endless: a pass never ends.
    """
    spec = Spec.from_json(sys.argv[1])
    os.sched_setaffinity(0, spec.cores)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for a reply
    if prepare is not None:
        prepare(spec)
    start = time.perf_counter()
    epoch = open_(spec)
    batches, left = epoch(), spec.samples // spec.batch
    first = next(batches)
    _use(first, spec)
    kept = None if spec.shuffle else first.cpu().clone()
    del first
    _reply(replies, {"first_batch_seconds": time.perf_counter() - start})
    left -= 1
    for line in sys.stdin:
        verb, _, argument = line.strip().partition(" ")
        if verb == "save":
            if kept is None:
                raise ValueError("the first batch is kept only where nothing is shuffled")
            np.save(argument, kept.numpy())
            _reply(replies, {})
        elif verb == "go":
            if left < spec.warm + spec.timed and not endless:
                batches, left = epoch(), spec.samples // spec.batch
            images = 0
            for number in range(spec.warm + spec.timed):
                if number == spec.warm:
                    start = time.perf_counter()
                batch = next(batches)
                _use(batch, spec)
                images += len(batch) * (number >= spec.warm)
            left -= spec.warm + spec.timed
            _reply(replies, {"seconds": time.perf_counter() - start, "images": images})
        else:
            raise ValueError(f"the line {line!r} is neither `go` nor `save FILE`")


def normalise(images: torch.Tensor) -> torch.Tensor:
    """From uint8 [..., h, w, 3] to what the network wants; float32 of the same shape.

    A row of pixels is one vector: PyTorch is six times slower where the innermost dimension is the three channels.
    """
    mean, factor = _rows(images.shape[-2])
    return images.flatten(-2).float().sub_(mean).mul_(factor).reshape(images.shape)


@lru_cache
def _rows(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    mean = torch.tensor([255 * value for value in MEAN]).repeat(width)
    return mean, torch.tensor([1 / (255 * value) for value in STD]).repeat(width)


def _use(batch: torch.Tensor, spec: Spec) -> None:
    """Check that the batch is what was asked for; on a GPU, wait until it is."""
    shape = (len(batch), 3, spec.size, spec.size)
    last = batch.is_contiguous(memory_format=torch.channels_last)
    if tuple(batch.shape) != shape or batch.dtype != torch.float32 or not last or batch.device.type != spec.device:
        raise TypeError(f"the batch is {batch.dtype} {tuple(batch.shape)} on {batch.device}, channels last: {last}")
    batch[-1, -1, -1, -1].item()


def _reply(replies: TextIO, answer: dict[str, float]) -> None:
    print(json.dumps(answer), file=replies, flush=True)
