"""What is set for a GPU does what it is for: engine, compiler, determinism, no waiting, and faults that are named."""

from __future__ import annotations

import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hemodist.cluster.gpu_faults import Gpu, GpuMemoryError, explained
from hemodist.config.data import AugmentConfig, MixConfig
from hemodist.config.operation import ScalingConfig, TrackingConfig
from hemodist.config.training import ModelConfig
from hemodist.doctor import decode, jpeg_engine
from hemodist.loading.training_loader import TrainingLoader
from hemodist.training.loop import Training
from hemodist.world import World
from tests.support.gpu_runs import run_of, silent, trained

pytestmark = pytest.mark.gpu

STEPS = 6
ALLOWED: set[tuple[str, int]] = set()
"""File and line of what may wait for the GPU in a step that is not logged."""


def only_on_gpus(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("only a GPU shows it")


def test_images_of_the_shards_size_are_libjpegs_and_the_jpeg_engine_decodes_them(device: torch.device) -> None:
    made = decode.measure(str(device))
    assert made.right, made
    if device.type == "cuda" and made.engine:  # nvidia-smi knows of one
        found = jpeg_engine.finding("here", str(device), library=jpeg_engine.library_is_there(), percent=made.engine)
        assert found.verdict == "pass", found


def test_a_batch_stays_as_it_is_while_the_next_ones_are_made_behind_a_slow_kernel(
    device: torch.device, folder: Path
) -> None:
    """What is computed late of a batch that is long let go is what is computed at once."""
    steps = 200
    options = {"batch_size": 8, "epochs": 20, "augment": AugmentConfig(0.5, 0.5, rotation_degrees=20.0)}

    def checksums(slow: bool) -> torch.Tensor:
        loader = TrainingLoader.open(
            str(folder / "data"), device=device, mix=MixConfig("cutmix", probability=0.5), **options
        )
        work = torch.randn(4096 if device.type == "cuda" else 64, 4096 if device.type == "cuda" else 64, device=device)
        sums = []
        for _, batch in zip(range(steps), loader, strict=False):
            if slow:
                for _ in range(10):  # some 20 ms of an H100, in which several batches are made
                    work = torch.tanh(work @ work)
            sums.append(batch.images.double().mean(dim=(1, 2, 3)) + 10 * batch.targets.double().nan_to_num().sum(1))
            if not slow and device.type == "cuda":
                torch.cuda.synchronize(device)
        return torch.stack(sums).cpu()

    at_once, late = checksums(slow=False), checksums(slow=True)
    assert len(at_once) == steps
    # The engine and the other decoder round differently, and may share a batch differently; other images differ more.
    assert (at_once - late).abs().max() < 0.02
    assert (at_once - at_once.roll(1, 0)).abs().max() > 0.2


def test_a_step_makes_the_host_wait_for_nothing(device: torch.device, folder: Path) -> None:
    only_on_gpus(device)
    run = run_of(
        folder,
        name="waits",
        model=ModelConfig(name="resnet18", image_size=64, ema_decay=0.9),
        tracking=TrackingConfig(mode="disabled", log_every=1000),
        scaling=ScalingConfig(workers=0),
    )
    training = Training(run, World.alone(device), silent)
    batches = training.batches()
    for _ in range(3):
        training.update(next(batches))
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                training.update(next(batches))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = {(Path(each.filename).name, each.lineno) for each in caught if "synchroniz" in str(each.message)}
    assert waits <= ALLOWED


@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune-no-cudagraphs"])
def test_a_compiled_network_makes_the_losses_of_the_plain_one(device: torch.device, folder: Path, mode: str) -> None:
    model = ModelConfig(name="resnet18", image_size=64)
    run = run_of(folder, model=model)
    plain = trained(World.alone(), replace(run, name=f"plain-{mode}"), STEPS, str(device))
    compiled = replace(run, name=f"compiled-{mode}", model=replace(model, compile=True, compile_mode=mode))  # type: ignore[arg-type]
    made = trained(World.alone(), compiled, STEPS, str(device))
    assert made[1] == plain[1]
    assert np.allclose(made[0], plain[0], rtol=2e-2)


@pytest.mark.parametrize("name", ["resnet18", "alexnet", "squeezenet1_1"])
def test_a_deterministic_run_repeats_itself_to_the_bit(device: torch.device, folder: Path, name: str) -> None:
    scaling = ScalingConfig(workers=0, deterministic=True)
    run = run_of(folder, model=ModelConfig(name=name, image_size=64), scaling=scaling)
    one, other = (trained(World.alone(), replace(run, name=f"{name}-{n}"), STEPS, str(device)) for n in (1, 2))
    torch.use_deterministic_algorithms(False)
    assert one[0] == other[0]
    for parameter, value in one[2].items():
        assert np.array_equal(value, other[2][parameter]), parameter


@pytest.mark.parametrize("name", ["densenet161", "convnext_small"])
def test_the_large_networks_begin_with_the_cpus_losses_in_bf16(device: torch.device, folder: Path, name: str) -> None:
    run = run_of(folder, model=ModelConfig(name=name, image_size=64), scaling=ScalingConfig(workers=0))
    here = trained(World.alone(), replace(run, name=f"{name}-here"), 2, str(device))
    exact = replace(run, name=f"{name}-there", scaling=ScalingConfig(workers=0, precision="fp32"))
    there = trained(World.alone(), exact, 2, "cpu")
    assert here[1] == there[1]
    assert np.allclose(here[0], there[0], rtol=0.05)


def test_a_gpu_is_known_by_its_uuid_and_too_little_memory_by_its_error(device: torch.device, folder: Path) -> None:
    only_on_gpus(device)
    gpu = Gpu.of(device)
    assert gpu.uuid in subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    with pytest.raises(torch.OutOfMemoryError) as raised:
        torch.empty(2**45, device=device)
    assert isinstance(explained(raised.value, gpu, run_of(folder), 1), GpuMemoryError)


def test_float32_products_may_use_tf32_and_kernels_are_tried_unless_a_run_is_deterministic(
    device: torch.device, folder: Path
) -> None:
    Training(run_of(folder, name="tried"), World.alone(device), silent)
    assert torch.backends.cudnn.benchmark
    if device.type == "cuda":
        assert torch.get_float32_matmul_precision() == "high"
    scaling = ScalingConfig(workers=0, deterministic=True)
    Training(run_of(folder, name="not-tried", scaling=scaling), World.alone(device), silent)
    assert not torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(False)
