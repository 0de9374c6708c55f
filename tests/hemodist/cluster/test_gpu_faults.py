"""What a GPU does to a rank becomes something that a user can act on, and a broken one's node is left."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from hemodist.bench.ray_nodes import Nodes, ray_nodes
from hemodist.cluster.gpu_faults import BrokenGpuError, Gpu, GpuMemoryError, explained, smaller_batch, unlike
from hemodist.cluster.worker_slots import worker_resources
from hemodist.cluster.workers import run_on_workers
from hemodist.config.data import BatchConfig
from hemodist.config.operation import ScalingConfig
from hemodist.config.range_test import RangeTest
from hemodist.config.run import Run, check_shares
from hemodist.dataset.dataset import DataSet
from hemodist.events import Event, Note, Started, Tell, WorkersLost
from hemodist.scoring.run_network import run_over_split
from hemodist.world import World
from tests.support.dataset import make_dataset

import ray  # isort: skip - after what sets its variables

GPU = Gpu("NVIDIA H100", "GPU-1234", "node7", "ab12")
RUN = Run("x", batch=BatchConfig(global_batch_size=64, mix_group=8, eval_batch_size=48))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("Critical error in pipeline:\nCan't allocate 4294967296 bytes on device 0."),
        MemoryError("CUDA allocation failed"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        dist.DistBackendError("NCCL error, unhandled cuda error: Cuda failure 2 'out of memory'"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_too_little_memory_is_a_user_error_with_the_batch_that_fits_and_is_not_tried_again(error):
    known = explained(error, GPU, RUN, 2)
    assert isinstance(known, GpuMemoryError)
    assert not known.transient
    assert "NVIDIA H100 on node7" in str(known)
    assert "32 images at a time: use --batch.accumulate 2, which makes the same gradient of 16" in str(known)
    assert str(explained(error, GPU, RangeTest(RUN), 2)) == str(known)
    assert "--eval-batch-size" in str(explained(error, GPU, "a request to score", 2))
    assert str(pickle.loads(pickle.dumps(known))) == str(known)


@pytest.mark.parametrize("world", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_the_batch_that_is_offered_is_accepted_and_smaller(world, accumulate):
    batch = BatchConfig(global_batch_size=192, mix_group=4, accumulate=accumulate)
    (offered,) = [int(word) for word in smaller_batch(batch, world).split(", ")[0].split()[-1:]]
    check_shares(replace(batch, accumulate=offered), world)
    most = -(-48 // world)
    assert -(-most // offered) <= max(-(-most // accumulate) // 2, 1) < -(-most // accumulate)


def test_a_batch_of_one_mix_group_can_only_become_smaller_by_smaller_groups_or_images():
    assert "--batch.mix-group 4 with --batch.accumulate 2" in smaller_batch(BatchConfig(8, mix_group=8), 1)
    assert "--model.image-size" in smaller_batch(BatchConfig(2, mix_group=1), 2)


def test_too_little_memory_in_validation_is_about_the_batch_of_validation(tmp_path):
    class Large(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    dataset = DataSet.open(str(make_dataset(tmp_path / "data", samples=8)))
    with pytest.raises(torch.OutOfMemoryError) as raised:
        run_over_split(Large(), dataset, torch.arange(8).numpy(), RUN, World.alone(), lambda event: None)
    assert "48 images at a time: use --batch.eval-batch-size 24" in str(explained(raised.value, GPU, RUN, 2))


@pytest.mark.parametrize(
    "text",
    ["uncorrectable ECC error encountered", "unspecified launch failure", "unknown error", "hardware stack error"],
)
def test_a_broken_gpu_is_named_by_host_and_uuid_and_others_may_do_better(text):
    known = explained(torch.AcceleratorError(f"CUDA error: {text}\nSearch for it"), GPU, RUN, 2)
    assert isinstance(known, BrokenGpuError)
    assert known.transient
    assert f"NVIDIA H100 GPU-1234 on node7 has failed: CUDA error: {text}" in str(known)
    assert pickle.loads(pickle.dumps(known)).gpu == GPU


@pytest.mark.parametrize("text", ["device-side assert triggered", "an illegal memory access was encountered"])
def test_a_fault_of_the_program_takes_no_node_away_but_says_where_it_was(text):
    error = torch.AcceleratorError(f"CUDA error: {text}")
    assert explained(error, GPU, RUN, 2) is None
    assert error.__notes__ == ["on NVIDIA H100 GPU-1234 of node7"]
    assert explained(ValueError("out of memory"), GPU, RUN, 2) is None
    assert explained(RuntimeError("shape mismatch"), GPU, RUN, 2) is None


def test_unlike_gpus_are_told_and_like_ones_are_not():
    assert unlike(["H100"] * 8) == ""
    assert "3 x H100, 1 x A100" in unlike(["H100", "A100", "H100", "H100"])


@pytest.mark.parametrize(
    ("asked", "gpu", "nodes", "cpus"),
    [
        (None, True, [{"CPU": 84.0, "GPU": 8.0}, {"CPU": 4.0}], 10),  # a head without GPUs does not count
        (None, True, [{"CPU": 96.0, "GPU": 8.0}, {"CPU": 24.0, "GPU": 4.0}], 6),  # what every node can give
        (None, True, [{"CPU": 4.0, "GPU": 8.0}], 1),
        (None, True, [{"CPU": 4.0}], 1),  # nodes with GPUs are still to come
        (None, False, [{"CPU": 64.0}], 1),
        (3, True, [{"CPU": 96.0, "GPU": 8.0}], 3),
    ],
)
def test_the_cpus_of_a_worker_follow_the_node_where_nothing_else_is_asked_for(asked, gpu, nodes, cpus):
    resources = worker_resources(ScalingConfig(cpus_per_worker=asked), nodes, gpu=gpu)
    assert resources == {"CPU": cpus} | ({"GPU": 1} if gpu else {})


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head and two nodes of one CPU; the tests below have them in this order."""
    with ray_nodes(2) as started:
        yield started


def environment(names: list[str], world: World, tell: Tell) -> dict[str, Any]:
    """What a worker's process has, and how long its collectives wait."""
    backend = dist.group.WORLD._get_backend(torch.device("cpu"))
    return {name: os.environ.get(name) for name in names} | {"timeout": backend.options._timeout.total_seconds()}


def test_workers_end_hung_collectives_by_themselves_wherever_they_run(nodes, tmp_path: Path, monkeypatch):
    names = ["TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCHINDUCTOR_COMPILE_THREADS"]
    for name in names:
        monkeypatch.delenv(name, raising=False)
    scaling = ScalingConfig(workers=1, device="cpu", cpus_per_worker=1)
    found = run_on_workers(environment, names, scaling, gpu=False, tell=lambda _: None, name="x", folder=str(tmp_path))
    assert found == dict(zip(names, "31", strict=True)) | {"timeout": 600}


def breaks_once(folder: str, world: World, tell: Tell) -> list[str]:
    """Fails by a broken GPU where nothing has failed yet; returns the nodes of both attempts."""
    tell(Started(0, 1, world.size))
    node = ray.get_runtime_context().get_node_id()
    path = Path(folder, "failed-on")
    if not path.exists():
        path.write_text(node)
        raise BrokenGpuError("a GPU has failed", replace(GPU, node=node))
    return [path.read_text(), node]


def test_the_node_of_a_broken_gpu_is_drained_before_the_next_attempt_and_the_last_one_is_not(nodes, tmp_path: Path):
    said: list[Event] = []

    def run(folder: Path) -> list[str]:
        folder.mkdir()
        scaling = ScalingConfig(workers=1, device="cpu")
        return run_on_workers(
            breaks_once, str(folder), scaling, gpu=False, tell=said.append, name="x", folder=str(folder / "run")
        )

    failed, worked = run(tmp_path / "two nodes")
    assert failed != worked
    notes = [event.text for event in said if isinstance(event, Note)]
    assert "node7 takes no more work from this cluster, since NVIDIA H100 GPU-1234 has failed" in notes
    assert [event.error.gpu.host for event in said if isinstance(event, WorkersLost)][:1] == ["node7"]
    assert run(tmp_path / "one node") == [worked, worked]
