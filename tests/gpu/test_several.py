"""Two or more GPUs under Ray Train, NCCL between them; `HEMODIST_TEST_DEVICE=cpu` tries the same on two CPU ranks."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hemodist.cluster.session import cluster, no_process_left_behind
from hemodist.cluster.workers import run_on_workers
from hemodist.config.operation import CheckpointConfig, ScalingConfig
from hemodist.config.run import Run
from hemodist.doctor import all_reduce
from hemodist.events import Event, Started, StepDone, Tell, WorkersLost
from hemodist.scoring.write_results import Results
from hemodist.training import loop
from hemodist.training.loop import Training
from hemodist.world import World
from tests.support.gpu_runs import run_of, trained

pytestmark = pytest.mark.gpu

STEPS = 6


@pytest.fixture(scope="module")
def gpu(device: torch.device) -> bool:
    """Whether the ranks compute on GPUs; skips where there are fewer than two."""
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip(f"this machine has {torch.cuda.device_count()} GPU, and two are needed")
    return device.type == "cuda"


@pytest.fixture(scope="module")
def session(gpu: bool) -> Iterator[None]:
    """Ray on this machine."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path]))
    with no_process_left_behind(), cluster(cpus=max(os.cpu_count() or 2, 2)):
        yield


def six_steps(run: Run, world: World, tell: Tell) -> Any:
    """This rank's losses, keys and parameters, of all ranks."""
    return world.gather(trained(world, run, STEPS, str(world.device)))


def launched(function: Any, run: Run, gpu: bool, heard: list[Event] | None = None) -> Any:
    tell: Tell = (heard if heard is not None else []).append
    scaling = run.scaling
    return run_on_workers(function, run, scaling, gpu=gpu, tell=tell, name=run.name, folder=f"{run.output}/{run.name}")


@pytest.mark.parametrize("gradients", ["fp32", "bf16"])
def test_ranks_on_gpus_of_their_own_see_and_learn_what_one_does(
    device: torch.device, folder: Path, session: None, gpu: bool, gradients: str
) -> None:
    run = run_of(folder)
    alone = trained(World.alone(), replace(run, name=f"alone-{gradients}"), STEPS, str(device))
    scaling = ScalingConfig(workers=2, precision="fp32", gradients=gradients)  # type: ignore[arg-type]
    both = launched(six_steps, replace(run, name=f"both-{gradients}", scaling=scaling), gpu)
    for step in range(STEPS):
        assert both[0][1][step] + both[1][1][step] == alone[1][step]
    losses = np.sum([part[0] for part in both], axis=0)
    assert np.allclose(losses, alone[0], rtol=2e-3 if gradients == "fp32" else 1e-2)
    for name, value in both[0][2].items():
        assert np.array_equal(value, both[1][2][name]), name
        assert np.allclose(value, alone[2][name], atol=1e-4 if gradients == "fp32" else 1e-3), name


def dies_once(run: Run, world: World, tell: Tell) -> Results | None:
    """Train; the first time rank 1 is killed after three steps, one of them after the last checkpoint."""
    marker = Path(run.output, "died")
    if marker.exists():
        return loop.train(run, world, tell)
    training = Training(run, world, tell)
    for batch in training.batches():
        training.update(batch)
        if training.save_is_due():
            training.save()
            training.checkpoints.wait()
        if training.step == 3 and world.rank == 1:
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return None


def test_a_run_goes_on_from_its_checkpoint_after_a_rank_was_killed(folder: Path, session: None, gpu: bool) -> None:
    scaling, checkpoint = ScalingConfig(workers=2, precision="fp32"), CheckpointConfig(every_steps=2)
    run = run_of(folder, name="killed", scaling=scaling, checkpoint=checkpoint)
    heard: list[Event] = []
    results = launched(dies_once, run, gpu, heard)
    assert np.isfinite(results.scores.weighted_log_loss.value)
    assert [event.step for event in heard if isinstance(event, Started)] == [0, 2]
    assert any(isinstance(event, WorkersLost) for event in heard)
    waits = [event.communication_share for event in heard if isinstance(event, StepDone)]
    assert max(waits) > 0  # each read two steps later, from events of the GPU
    assert all(0 <= wait < 1 for wait in waits)


def test_the_doctor_measures_the_links_between_the_gpus(gpu: bool) -> None:
    if not gpu:
        pytest.skip("links between GPUs are measured between GPUs")
    found = all_reduce.on_this_machine(64)
    assert "nccl" in found.found
    assert " over " in found.found  # it knows which way NCCL takes
    assert found.verdict == "pass", found
