"""Training, saving and scoring on a GPU, beside the CPU."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from hemodist.config.operation import CheckpointConfig, ScalingConfig
from hemodist.config.run import Run
from hemodist.config.training import ModelConfig, OptimConfig
from hemodist.dataset.dataset import DataSet
from hemodist.metrics.log_loss import weighted_log_loss
from hemodist.plan.prepare import prepare
from hemodist.scoring.run_network import run_over_split
from hemodist.training import loop
from hemodist.training.gradient import backward
from hemodist.training.loop import Training
from hemodist.world import World
from tests.support.gpu_runs import run_of, silent, trained, without_dropout
from tests.support.ranks import run_ranks

pytestmark = pytest.mark.gpu

STEPS = 6


def mean_losses(results: list[tuple[list[float], Any, Any]], run: Run) -> np.ndarray:
    """Of each step, over the global batch."""
    return np.sum([losses for losses, _, _ in results], axis=0) / run.batch.global_batch_size


def test_the_loop_on_the_device_makes_the_cpus_losses(device: torch.device, folder: Path) -> None:
    run = run_of(folder)
    here = trained(World.alone(), replace(run, name="here"), STEPS, str(device))
    there = trained(World.alone(), replace(run, name="there"), STEPS, "cpu")
    assert here[1] == there[1]
    assert np.allclose(here[0], there[0], rtol=1e-2)  # decoders' rounding, and TF32's 10 bits in convolutions


def test_two_ranks_on_one_gpu_see_and_learn_what_one_does(device: torch.device, folder: Path) -> None:
    """Over gloo with the device's tensors: NCCL refuses two ranks on one GPU."""
    run = run_of(folder)
    alone = trained(World.alone(), replace(run, name="one"), STEPS, str(device))
    both = run_ranks(trained, 2, replace(run, name="two"), STEPS, str(device))
    for step in range(STEPS):
        assert both[0][1][step] + both[1][1][step] == alone[1][step]
    assert np.allclose(mean_losses(both, run), mean_losses([alone], run), rtol=2e-3)
    for name, value in both[0][2].items():
        assert np.array_equal(value, both[1][2][name]), name
        assert np.allclose(value, alone[2][name], atol=1e-4), name


def test_another_number_of_ranks_goes_on_with_the_same_sequence(device: torch.device, folder: Path) -> None:
    run = run_of(folder)
    undisturbed = trained(World.alone(), replace(run, name="undisturbed"), STEPS, str(device))
    moved = replace(run, name="moved")
    first = run_ranks(trained, 2, moved, 3, str(device))
    rest = trained(World.alone(), moved, STEPS, str(device))
    joined = [first[0][1][step] + first[1][1][step] for step in range(3)]
    assert joined + rest[1] == undisturbed[1]
    assert np.allclose(rest[0], undisturbed[0][3:], rtol=2e-3)


@pytest.mark.parametrize("to_the_device", [True, False])
def test_a_checkpoint_goes_on_on_the_other_kind_of_device(
    device: torch.device, folder: Path, to_the_device: bool
) -> None:
    begun, goes_on = ("cpu", str(device)) if to_the_device else (str(device), "cpu")
    run = run_of(folder, name=f"onto-{to_the_device}", optim=OptimConfig(lr=1e-4, epochs=2))  # AdamW has a state
    _, keys, parameters = trained(World.alone(), run, 3, begun)
    training = Training(run, World.alone(goes_on), silent)
    assert training.step == 3
    for name, value in training.learner.network.named_parameters():
        assert value.device.type == torch.device(goes_on).type
        assert np.array_equal(value.detach().cpu().numpy(), parameters[name]), name
    moments = [s["exp_avg"] for s in training.learner.optimizer.state.values()]
    assert moments
    assert all(moment.device.type == torch.device(goes_on).type for moment in moments)
    rest = trained(World.alone(), run, STEPS, goes_on)
    undisturbed = trained(World.alone(), replace(run, name=f"{run.name}-whole"), STEPS, goes_on)
    assert keys + rest[1] == undisturbed[1]
    assert np.allclose(rest[0], undisturbed[0][3:], rtol=2e-2)


def test_bf16_learns_and_agrees_with_float32(device: torch.device, folder: Path) -> None:
    steps = 40
    optim = OptimConfig(lr=1e-3, epochs=12, schedule="constant", warmup_steps=5)
    run = run_of(folder, optim=optim, model=ModelConfig(name="resnet18", image_size=64))
    losses = {}
    for precision in ("bf16", "fp32"):
        scaling = ScalingConfig(workers=0, precision=precision)  # type: ignore[arg-type]
        result = trained(World.alone(), replace(run, name=precision, scaling=scaling), steps, str(device))
        losses[precision] = mean_losses([result], run)
        assert all(value.dtype == np.float32 for value in result[2].values())
    assert np.isfinite(losses["bf16"]).all()
    assert losses["bf16"][-5:].mean() < 0.8 * losses["bf16"][:3].mean()
    assert np.allclose(losses["bf16"][:3], losses["fp32"][:3], rtol=0.03)  # 8 bits; then the two part
    assert losses["bf16"][-5:].mean() == pytest.approx(losses["fp32"][-5:].mean(), rel=0.3)


def test_the_precision_is_bf16_on_a_gpu_unless_the_run_says_otherwise(device: torch.device, folder: Path) -> None:
    run = run_of(folder, scaling=ScalingConfig(workers=0))
    with loop_autocast(run, device):
        product = torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)
    assert product.dtype == (torch.bfloat16 if device.type == "cuda" else torch.float32)


def loop_autocast(run: Run, device: torch.device) -> Any:
    from hemodist.scoring.run_network import autocast_on

    return autocast_on(run, device)


def test_a_whole_run_ends_with_scores_and_a_report(device: torch.device, folder: Path) -> None:
    """bf16, averaged weights, channels last: the loop as a GPU's user gets it."""
    run = run_of(
        folder,
        name="whole",
        model=ModelConfig(name="resnet18", image_size=64, ema_decay=0.9),
        optim=OptimConfig(lr=1e-3, epochs=3),
        scaling=ScalingConfig(workers=0),
        checkpoint=CheckpointConfig(every_steps=4),
    )
    results = loop.train(run, World.alone(device), silent)
    assert results.scores is not None
    assert np.isfinite(results.scores.weighted_log_loss.value)
    assert Path(results.report).is_file()


def test_scores_on_the_device_are_the_cpus(device: torch.device, folder: Path) -> None:
    run = run_of(folder, name="scored", model=ModelConfig(name="resnet18", image_size=64))
    prepared = prepare(run)
    training = Training(run, World.alone(), silent)
    for batch in training.batches():
        training.update(batch)
    dataset, rows = DataSet.open(run.data.dataset), prepared.split.valid
    there = run_over_split(training.learner.network, dataset, rows, run, World.alone(), silent)
    here = run_over_split(training.learner.network.to(device), dataset, rows, run, World.alone(device), silent)
    assert np.array_equal(here.rows, there.rows)
    assert np.abs(here.logits - there.logits).max() <= 0.05
    assert np.allclose(here.blood, there.blood, atol=0.02, equal_nan=True)
    labels = dataset.labels()[rows]
    scores = [weighted_log_loss(1 / (1 + np.exp(-found.logits.astype(float))), labels) for found in (here, there)]
    assert scores[0] == pytest.approx(scores[1], abs=0.005)


def test_ddp_over_the_devices_own_group_gives_the_bare_networks_gradient(device: torch.device, folder: Path) -> None:
    """NCCL on one GPU: the collectives that a run uses, and the gradient of one rank."""
    run = run_of(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        box: list[Any] = [None]
        dist.all_gather_object(box, {"rank": 0})
        assert box == [{"rank": 0}]
        dist.broadcast_object_list(box, src=0)
        assert box == [{"rank": 0}]
        number = torch.full((), 3.0, dtype=torch.float64, device=device)
        dist.all_reduce(number)
        assert number.item() == 3
        world = World.alone(device)
        training = Training(run, world, silent)
        without_dropout(training.learner.network)
        training.learner.network.train()
        batch = next(training.batches())
        gradients = []
        for wrapped in (
            training.learner.network,
            DistributedDataParallel(
                training.learner.network,
                device_ids=[device] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            ),
        ):
            training.learner.optimizer.zero_grad(set_to_none=True)
            backward(wrapped, batch, run, world, training.learner.optimizer, 1.0)
            gradients.append([p.grad.clone() for p in training.learner.network.parameters() if p.grad is not None])
        assert len(gradients[0]) == len(gradients[1]) > 10
        for bare, reduced in zip(*gradients, strict=True):
            assert torch.allclose(bare, reduced, rtol=1e-3, atol=1e-6)
    finally:
        dist.destroy_process_group()
