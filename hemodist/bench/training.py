"""The training loop beside the same network on one resident batch, and what the loop's own Python costs."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from hemodist.bench import lightning_loop
from hemodist.bench.folds import smallest_fold
from hemodist.bench.rounds import Lap, Outcome, Rate, Ratio, measure, plot
from hemodist.config.data import BatchConfig, DataConfig
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.config.recipes import resnet18, resnet101
from hemodist.config.run import Run
from hemodist.doctor.utilisation import Utilisation, watched
from hemodist.loading.dali_pipeline import Batch
from hemodist.loading.training_loader import TrainingLoader
from hemodist.scoring.run_network import autocast_for
from hemodist.training import loss
from hemodist.training.gradient import clip
from hemodist.training.learner import Learner
from hemodist.training.loop import Training
from hemodist.world import World

LOOP, RESIDENT, DECODING = "hemodist: loop and loader", "same network, one resident batch", "the loader alone"
LIGHTNING = "PyTorch Lightning, one resident batch"
SMALL_LOOP, SMALL_RESIDENT = "hemodist: ResNet-18 at 128 px", "the same network, one resident batch"
BOUND, SMALL_BOUND = 0.98, 0.9
"""Of the resident batch's rate that the loop must reach where the network is the bottleneck, and where loading shows
most: a small network on small pictures."""

OVERHEAD_MS = 2.0
"""Most that the loop's own Python may take of the CPU in a step."""

_MOST_AHEAD = 3
"""Batches that may lie ready."""

_T = TypeVar("_T")


def bench_train(dataset: Path, work: Path, *, quick: bool, device: str = "cpu") -> Outcome:
    """Measure both, of ResNet-101 and of ResNet-18 at 128 pixels, augmented as their recipes have it.

    Args:
        dataset: a data set whose images are stored at the former's size, with labels.
        work: folder for the runs.
        quick: fewer steps and rounds.
        device: that trains; on a CPU the network shares the cores with the decoder, which is counted.
    """
    steps, rounds = (3, 3) if quick else (4, 7)
    world = World.alone(device)
    run = on_stored_images(resnet101(), dataset, work, batch=batch_size(device))
    duel = Duel(run, world, steps)
    loading = iter(_loader_alone(duel.training))
    light = on_stored_images(resnet18(), dataset, work, batch=4 * batch_size(device))
    light = replace(light, name="small", model=replace(light.model, image_size=128))
    small = Duel(light, world, steps)
    ways = {
        SMALL_LOOP: small.loop,
        SMALL_RESIDENT: small.alone,
        LOOP: duel.loop,
        RESIDENT: duel.alone,
        # Here decoding is all there is: what is ready, decoded during the other ways' laps, is taken out first.
        DECODING: lambda: duel.lap(lambda: next(loading), lambda: _drop(loading, _MOST_AHEAD)),
    }
    absent = lightning_loop.missing()
    if absent is None:
        network, optimizer = duel.training.learner.network, duel.training.learner.optimizer
        ways[LIGHTNING] = lambda: lightning_loop.lap(network, optimizer, run, world, duel.resident, steps)
    laps = measure(ways, rounds)
    rates = [Rate(way, values, {}) for way, values in laps.items()]
    by_way = {rate.way: rate for rate in rates}
    shares = {
        "loop over resident batch": Ratio.of(by_way[LOOP].rates, by_way[RESIDENT].rates, BOUND),
        "the same, ResNet-18 at 128 px": Ratio.of(by_way[SMALL_LOOP].rates, by_way[SMALL_RESIDENT].rates, SMALL_BOUND),
        "resident batch over loop, by CPU time": _by_cpu(laps[LOOP], laps[RESIDENT]),
        "the same by CPU time, ResNet-18 at 128 px": _by_cpu(laps[SMALL_LOOP], laps[SMALL_RESIDENT]),
    }
    if absent is None:
        shares[f"loop over {LIGHTNING}"] = Ratio.of(by_way[LOOP].rates, by_way[LIGHTNING].rates)
    decoding = by_way[DECODING].cpu_ms / by_way[LOOP].cpu_ms
    own = overhead_ms(replace(run, name="overhead"), world, rounds=rounds, steps=50 if quick else 200)
    ratios = {
        **{name: str(value) for name, value in shares.items()},
        "of the loop's CPU time, decoding alone": f"{decoding:.3f}",
        "the loop's own Python, CPU ms a step": str(Ratio((own,), OVERHEAD_MS, at_most=True)),
    }
    rows = [
        [rate.way, f"{rate.median:,.1f}", f"{min(rate.rates):,.1f}", f"{max(rate.rates):,.1f}", f"{rate.cpu_ms:.2f}"]
        for rate in rates
    ]
    figures = {
        "network": run.model.name,
        "image_size": run.model.image_size,
        "global_batch_size": run.batch.global_batch_size,
        "device": device,
        "threads": torch.get_num_threads(),
        "rates": [rate.to_dict() for rate in rates],
        "ratios": {name: value.to_dict() for name, value in shares.items()},
        "small": {"image_size": light.model.image_size, "global_batch_size": light.batch.global_batch_size},
        "gpu_during_loop": duel.use.facts(),
        "decoding_share_of_cpu": decoding,
        "own_python_ms": own,
    }
    title = f"training: {run.model.name}, {run.model.image_size} px, on {device}, median of {rounds} rounds"
    return Outcome(
        title,
        ["way", "images/s", "lowest", "highest", "CPU ms/image"],
        rows,
        ratios,
        figures,
        ("hemodist", "torch", "torchvision", "nvidia-dali-cuda130", "numpy"),
        lambda path: plot([rate for rate in rates if rate.way != DECODING], title, "images/s", path),
        () if absent is None else (f"{LIGHTNING}: not measured, {absent}",),
    )


def _by_cpu(loop: Sequence[Lap], resident: Sequence[Lap]) -> Ratio:
    return Ratio.of([lap.cpu_ms for lap in resident], [lap.cpu_ms for lap in loop])


class Duel:
    """A run's loop with its loader, and the same network on one batch that stays where it is; a lap of each at a time.

    It is one network in one place of memory: two of a kind differ by up to 6 % for as long as they live.

    Attributes:
        training: the loop's.
        resident: the batch, augmented and mixed as the run says.
        use: of the GPU during the loop's laps.
    """

    def __init__(self, run: Run, world: World, steps: int) -> None:
        """Start both.

        Args:
            run: what is trained, without Ray.
            world: one rank.
            steps: of a lap.
        """
        self.training = Training(run, world, lambda event: None)
        self._world, self._steps, self._batch = world, steps, run.batch.global_batch_size
        self._stream = self.training.batches()
        self.resident = next(self._stream)
        self._bare = bare_step(self.training.learner.network, self.training.learner.optimizer, run, world)
        self.use = Utilisation()

    def loop(self) -> Lap:
        """Steps of the loop, checkpoints where they are due.

        Asking for a batch starts the decoding of another one, so that a lap decodes as many as it takes.
        """
        with watched(self._world.device.type) as use:
            lap = self.lap(self._loop_step)
        for whole, part in ((self.use.gpu, use.gpu), (self.use.memory, use.memory), (self.use.decoder, use.decoder)):
            whole += part
        return lap

    def alone(self) -> Lap:
        """Steps of the network on the resident batch."""
        return self.lap(lambda: self._bare(self.resident))

    def lap(self, step: Callable[[], object], ready: Callable[[], object] = lambda: None) -> Lap:
        """Time so many steps as a lap has, after `ready` and a step that does not count."""
        ready()
        step()
        _wait_for(self._world)
        clock, cpu = time.perf_counter(), time.process_time()
        for _ in range(self._steps):
            step()
        _wait_for(self._world)
        images = self._steps * self._batch
        return Lap(images / (time.perf_counter() - clock), 1e3 * (time.process_time() - cpu) / images)

    def _loop_step(self) -> None:
        training = self.training
        training.update(next(self._stream))
        if training.epoch_ended() is None and training.save_is_due():
            training.save()


def bare_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, run: Run, world: World
) -> Callable[[Batch], torch.Tensor]:
    """The least that a training step takes: forward, loss, backward, gradient norm, optimizer."""

    def step(batch: Batch) -> torch.Tensor:
        with autocast_for(run, world):
            logits = network(batch.images)
        mean = loss.per_sample(logits, batch.targets).mean()
        optimizer.zero_grad(set_to_none=True)
        mean.backward()  # type: ignore[no-untyped-call]
        clip(network, run.optim.clip_norm)
        optimizer.step()
        return mean

    return step


def overhead_ms(run: Run, world: World, *, rounds: int, steps: int) -> float:
    """CPU time of the loop's own Python in ms a step, without network and loader.

    With a network of 24 numbers a step is nothing but Python. What is measured is the loop's step, logging included,
    minus the bare step on the same resident batch, in CPU time of this thread, so that other processes do not count;
    the median of the rounds.
    """
    run = replace(run, model=replace(run.model, name="squeezenet1_1"))
    training = Training(run, world, lambda event: None)
    batch = next(training.batches())
    tiny = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 6)).to(world.device)
    training.learner = Learner(tiny, run, world, None, training.prepared.known_share)
    bare = bare_step(tiny, training.learner.optimizer, run, world)
    counter = itertools.count()

    def loop_step() -> None:
        training.update(replace(batch, number=next(counter) % (training.total - 1)))
        if training.epoch_ended() is None:
            training.save_is_due()

    def thread_ms(step: Callable[[], object]) -> float:
        before = time.thread_time()
        for _ in range(steps):
            step()
        return 1e3 * (time.thread_time() - before) / steps

    differences = [thread_ms(loop_step) - thread_ms(lambda: bare(batch)) for _ in range(rounds + 1)]
    return statistics.median(differences[1:])  # the first round warms up


def batch_size(device: str) -> int:
    """Images a step: enough to fill a GPU of 40 GB, few where a CPU computes."""
    return 8 if device == "cpu" else 128


def on_stored_images(run: Run, dataset: Path, work: Path, batch: int) -> Run:
    """The run on a bench's data set, in this process, from random weights, without end and without a log."""
    return replace(
        run,
        model=replace(run.model, weights="none"),
        output=str(work / "runs"),
        data=DataConfig(dataset=str(dataset), valid_fold=smallest_fold(dataset)),
        batch=BatchConfig(global_batch_size=batch, mix_group=8, block_shards=2),
        optim=replace(run.optim, epochs=10_000),
        scaling=ScalingConfig(workers=0),
        tracking=TrackingConfig(mode="disabled"),
    )


def _loader_alone(training: Training) -> TrainingLoader:
    """A loader like the run's, from the beginning, whose batches nobody trains on."""
    return TrainingLoader(training.prepared, training.run, training.reader, device=training.world.device)


def _drop(stream: Iterator[_T], count: int) -> None:
    for _ in range(count):
        next(stream)


def _wait_for(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
