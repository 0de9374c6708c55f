"""What makes the host wait for the device, counted on a CPU; and that no operation mixes devices, on a fake GPU.

The counter sees what a program asks for, in Python (`Tensor.item`, `tolist`, `numpy`, `bool()` ...) and below (a scalar
that is read, an operation whose result's shape depends on values, a tensor made of Python's numbers, which goes to a
GPU from pageable memory). Each of them would wait on a GPU, on which `tests/gpu` asks CUDA itself.
"""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import hemodist
from hemodist.config.data import MixConfig
from hemodist.config.operation import CheckpointConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig
from hemodist.loading.mixing import mix_images
from hemodist.loading.pixels import light_of, network_input
from hemodist.models.network import untrained_network
from hemodist.plan.mix import draw_mix
from hemodist.training import loss
from hemodist.training.ema import EMA
from hemodist.training.gradient import clip
from hemodist.training.loop import Training
from hemodist.world import World
from tests.hemodist.training.test_loop import run_of, silent
from tests.support.dataset import make_dataset

ASKED = {
    "item",
    "tolist",
    "numpy",
    "cpu",
    "nonzero",
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
    "equal",
    "tensor",
}
LIBRARY = str(Path(hemodist.__path__[0]))
READ = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "_unique2",
    "unique_dim",
    "lift_fresh",
}

ALLOWED = {
    "late_steps.next": "the figures of a step two steps before, after their event",
}
"""Functions that may wait in a step, and what for."""


class Counted(TorchFunctionMode):
    """Counts in `found` the functions of hemodist that make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._below = _Below(self)

    def __enter__(self):
        self._below.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._below.__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ASKED:
            self.count()
        return func(*args, **(kwargs or {}))

    def count(self) -> None:
        """Count the innermost function of hemodist, or of this file."""
        frames = [f for f in traceback.extract_stack() if f.filename.startswith(LIBRARY)]
        place = frames[-1] if frames else None
        self.found[f"{Path(place.filename).stem}.{place.name}" if place else "test"] += 1


class _Below(TorchDispatchMode):
    def __init__(self, counted: Counted) -> None:
        super().__init__()
        self._counted = counted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in READ or masks:
            self._counted.count()
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("syncs")
    make_dataset(folder / "data", samples=100)
    return folder


def syncs(run: Run, steps: int) -> Counter[str]:
    """Of the updates of some steps, after two that make what is made once."""
    training = Training(run, World.alone(), silent)
    batches = training.batches()
    for _ in range(2):
        training.update(next(batches))
    counted = Counted()
    for _ in range(steps):
        batch = next(batches)  # the loader's own tests count what it waits for
        with counted:
            training.update(batch)
    batches.close()
    return counted.found


def test_the_counter_sees_each_way_of_waiting():
    value = torch.ones(3)
    for ask in (
        lambda: value[0].item(),
        lambda: value.tolist(),
        lambda: value.numpy(),
        lambda: bool(value[0]),
        lambda: value.nonzero(),
        lambda: torch.tensor([1.0, 2.0]),
        lambda: value[value > 0],
    ):
        counted = Counted()
        with counted:
            ask()
        assert counted.found["test"] > 0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_step_waits_only_for_the_figures_of_one_long_done(folder, optimizer):
    run = run_of(folder, name=optimizer)  # batch norm, a moving average, CutMix
    run = replace(
        run,
        optim=replace(run.optim, name=optimizer, clip_norm=1.0),
        batch=replace(run.batch, accumulate=2),
        tracking=replace(run.tracking, log_every=1),
    )
    assert syncs(run, steps=3) == {"late_steps.next": 3}


def test_a_checkpoint_waits_for_sums_and_late_figures_only(folder):
    training = Training(replace(run_of(folder, name="saves"), checkpoint=CheckpointConfig()), World.alone(), silent)
    batches = training.batches()
    training.update(next(batches))
    counted = Counted()
    with counted:
        training.save()
    training.checkpoints.wait()
    batches.close()
    assert counted.found.keys() == {"late_steps.next", "epoch_sums.totals"}


@pytest.fixture
def fake_gpu():
    """Tensors that know their device and hold nothing."""
    loss.weights_on.cache_clear()
    with FakeTensorMode():
        yield torch.device("cuda", 0)
    loss.weights_on.cache_clear()


def test_forward_loss_clipping_and_average_mix_no_devices(fake_gpu, monkeypatch):
    config = ModelConfig(name="shufflenet_v2_x0_5", image_size=32, weights="none")
    # A copy of a fake tensor would be of another fake device.
    monkeypatch.setattr("torch.optim.swa_utils.deepcopy", lambda network: untrained_network(config))
    with torch.device(fake_gpu):
        network = untrained_network(config)
        average = EMA(network, 0.9)
        images = torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)
        targets, skipped = torch.zeros(4, 6), torch.zeros((), dtype=torch.bool)
    with torch.no_grad():
        losses = loss.per_sample(network(images), targets)
    weight = loss.known_weight(targets)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    norm = clip(network, 1.0)
    average.follow(network, skipped)
    assert {t.device for t in (losses, weight, norm, average.n_averaged, *average.module.buffers())} == {fake_gpu}


@pytest.mark.parametrize("size", [32, 20, 16])
@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_geometry_light_and_mixing_mix_no_devices(fake_gpu, monkeypatch, size, kind):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # which needs a driver
    affine = np.eye(2, 3, dtype=np.float32)[None].repeat(8, axis=0)
    decoded = torch.empty(8, 32, 32, 3, dtype=torch.uint8, device=fake_gpu)
    images = torch.empty(8, size, size, 3, device=fake_gpu)
    for maps in (None, affine + np.float32(0.01)):
        moved = decoded if maps is not None or size == 32 else images
        network_input(moved, maps, light_of(8, np.zeros(8, np.float32), np.ones(8, np.float32)), size, images)
    mix_images(images, draw_mix(MixConfig(kind), 1, 0, 2, mix_group=4, size=size))
    assert images.device == fake_gpu
    assert images.shape == (8, size, size, 3)


def test_a_fake_gpu_refuses_an_operation_that_mixes_devices(fake_gpu):
    with pytest.raises(Exception, match="device"):
        torch.ones(3, device=fake_gpu) + torch.ones(3)
