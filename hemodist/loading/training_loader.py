"""The training data as an iterable of batches, for training here and for any other PyTorch program."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from hemodist.config.data import AugmentConfig, BatchConfig, DataConfig, MixConfig
from hemodist.config.fields import DecidesSamples, values_marked
from hemodist.config.operation import ScalingConfig
from hemodist.config.run import Run
from hemodist.config.shares import share_bounds
from hemodist.config.training import ModelConfig, OptimConfig
from hemodist.errors import ConfigError
from hemodist.loading.dali_pipeline import Batch, DaliBatches, Request
from hemodist.loading.decode_settings import DecodeSettings
from hemodist.loading.sample_reader import Reader
from hemodist.loading.shard_cache import ShardCache
from hemodist.plan.prepare import Prepared, prepare
from hemodist.plan.stream import Stream


class TrainingLoader:
    """One rank's shares of the global batches, augmented and mixed, from any step on.

    Each sample of the training split exactly once an epoch, in an order that depends on the seed alone; with W ranks,
    rank r of W gets its part of the same global batches. All global batches are of one size, so one that an epoch does
    not fill goes on with the next epoch's first samples, and so does the last one of all: where
    `len(plan.rows) - batch.position` is less than the size, only so many of its samples are of `batch.epoch`. Without
    hemodist's training:

    >>> from hemodist.loading.training_loader import TrainingLoader
    >>> loader = TrainingLoader.open("dataset", batch_size=64, seed=1, epochs=2)  # doctest: +SKIP
    >>> for batch in loader:  # doctest: +SKIP
    ...     logits = network(batch.images)  # float32 [64, 3, 256, 256]
    ...     print(batch.epoch, batch.position, batch.number, batch.keys[0], batch.targets[0])
    ...     torch.save({"data": loader.state(batch.number + 1), ...}, "state.pt")

    and after a restart, on as many ranks as there then are:

    >>> loader = TrainingLoader.open("dataset", batch_size=64, seed=1, epochs=2, state=saved["data"])  # doctest: +SKIP

    Attributes:
        reader: reads the encoded pictures; `reader.corrupt` are the rows that were masked out so far.
        stream: what is read at each step.
        steps: number of the step after the last one.
    """

    def __init__(
        self,
        prepared: Prepared,
        run: Run,
        reader: Reader,
        *,
        rank: int = 0,
        world: int = 1,
        start: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
    ) -> None:
        """Set up; nothing is read before the first batch is asked for.

        Args:
            prepared: data set, split and plan of the run.
            run: the configuration.
            reader: reads the encoded pictures; kept by the caller, who sees there which rows were corrupt.
            rank: 0 to `world` - 1.
            world: number of ranks.
            start: global step of the first batch.
            device: `cpu`, or a CUDA device.
            dtype: of the images: float32, float16 or bfloat16.
            channels_last: order of the images' pixels in memory, NHWC or NCHW.

        Raises:
            ConfigError: the node's shard cache is too small for what is read at a time, or there is no such rank.
        """
        self.reader = reader
        self.stream = Stream(prepared.plan, run.augment, run.mix, run.model.image_size)
        self.steps = prepared.total_steps
        self._prepared, self._run = prepared, run
        self._rank, self._world, self._start = rank, world, start
        self._settings = DecodeSettings.of_run(run, device, dtype=dtype, channels_last=channels_last)
        if not 0 <= rank < world:
            raise ConfigError(f"rank {rank} is none of {world} ranks, which are 0 to {world - 1}")
        reader.cache.check_holds(prepared.plan.shards_at_once(run.optim.epochs, run.data.prefetch or 0))

    @classmethod
    def open(
        cls,
        dataset: str,
        *,
        batch_size: int,
        seed: int = 0,
        epochs: int = 1,
        image_size: int | None = None,
        augment: AugmentConfig | None = None,
        mix: MixConfig | None = None,
        data: DataConfig | None = None,
        batch: BatchConfig | None = None,
        state: Mapping[str, Any] | None = None,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
    ) -> TrainingLoader:
        """A loader of a data set, without a run.

        Args:
            dataset: path or URI of a finished data set.
            batch_size: samples of a global batch, over all ranks.
            seed: of order, augmentation and mixing.
            epochs: passes over the training split.
            image_size: side of the images in pixels; None as stored.
            augment: strengths of the augmentation; None for none.
            mix: CutMix or mixup; None for neither.
            data: split, cache and the like; None for the defaults.
            batch: how the stream is cut; None for mix groups of one sample, or of the whole batch where it is mixed.
            state: where an earlier loader stood; None for the beginning.
            rank: 0 to `world` - 1.
            world: number of ranks.
            device: `cpu`, or a CUDA device.
            dtype: of the images: float32, float16 or bfloat16.
            channels_last: order of the images' pixels in memory, NHWC or NCHW.

        Raises:
            UserError: the data set cannot be read, the numbers do not fit, or the state is of another stream.
        """
        mix = mix or MixConfig()
        data = dataclasses.replace(data or DataConfig(), dataset=dataset)
        batch = batch or BatchConfig(mix_group=1 if mix.kind == "none" else batch_size)
        run = Run(
            name="loader",
            seed=seed,
            data=data,
            batch=dataclasses.replace(batch, global_batch_size=batch_size),
            augment=augment or AugmentConfig(),
            mix=mix,
            optim=OptimConfig(epochs=epochs),
            scaling=ScalingConfig(workers=world),
        )
        prepared = prepare(run)
        size = image_size or int(prepared.dataset.manifest.config["size"])
        run = dataclasses.replace(run, model=ModelConfig(image_size=size))
        reader = Reader(
            prepared.dataset, ShardCache(prepared.dataset, data.cache, limit=data.cache_bytes), data.on_corrupt
        )
        loader = cls(
            prepared, run, reader, rank=rank, world=world, device=device, dtype=dtype, channels_last=channels_last
        )
        if state is not None:
            loader._start = loader._checked(state)
        return loader

    def state(self, step: int) -> dict[str, Any]:
        """All that is needed to go on at global step `step`, on any number of ranks; plain values for JSON."""
        names = {"dataset": self._prepared.dataset.manifest.digest, "split": self._prepared.split.digest}
        values = names | values_marked(self._run, DecidesSamples) | {"step": step}
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain

    def _checked(self, state: Mapping[str, Any]) -> int:
        step = state.get("step")
        if not isinstance(step, int) or not 0 <= step <= self.steps:
            raise ConfigError(f"the state is of step {step!r}, and this run has the steps 0 to {self.steps}")
        own = self.state(step)
        # States of version 0.1.0 do not know the size of the images.
        state = {"model.image_size": own["model.image_size"]} | dict(state)
        differing = [f"{name} was {state.get(name)}, is {own[name]}" for name in own if state.get(name) != own[name]]
        if differing:
            raise ConfigError(f"the state is of another stream: {'; '.join(differing)}; use what it had, or no state")
        return step

    def __iter__(self) -> Iterator[Batch]:
        """Run the stream once, from `start` on."""
        plan = self.stream.plan
        start, stop = share_bounds(plan.global_batch_size, plan.mix_group, self._rank, self._world)
        yield from DaliBatches(
            self.reader,
            self._request_at,
            self._settings,
            start=self._start,
            stop=self.steps,
            max_batch=stop - start,
        )

    def _request_at(self, step: int) -> Request:
        stream, where = self.stream, (step, self._rank, self._world)
        epoch, position = stream.epoch_and_position(step)
        needed = stream.plan.needed_shards(step, self._run.optim.epochs)
        mix = stream.mix_at(*where) if self._run.mix.kind != "none" else None
        if self._run.augment == AugmentConfig():  # nothing is drawn, and no picture is moved
            return Request(stream.plan.at(*where).rows, mix=mix, needed=needed, epoch=epoch, position=position)
        share, drawn = stream.at(*where)
        return Request(share.rows, drawn.affine, drawn.brightness, drawn.contrast, mix, needed, epoch, position)
