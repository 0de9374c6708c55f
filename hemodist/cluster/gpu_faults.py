"""What goes wrong on a rank's GPU, told apart: too little memory, a broken GPU, and what is neither."""

from __future__ import annotations

import socket
import traceback
from dataclasses import dataclass
from typing import Any

import ray
import torch

from hemodist.config.data import BatchConfig
from hemodist.config.range_test import RangeTest
from hemodist.config.run import Run
from hemodist.errors import UserError

_NO_MEMORY = ("out of memory", "CUDA allocation failed", "Can't allocate", "CUBLAS_STATUS_ALLOC_FAILED")
"""What CUDA, DALI (`CUDABadAlloc`) and cuBLAS say, each in an error of its own class."""

_BROKEN = (
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "over nvlink or a hardware error",
    "hardware stack error",
    "unspecified launch failure",
    "busy or unavailable",
    "no CUDA-capable device is detected",
    "system not yet initialized",
    "unknown error",
)
"""CUDA's texts of errors that the driver logs as an Xid of the hardware. An assertion on the device and an illegal
address are not among them: they are the program's, and would be met on every node in turn."""

_VALIDATES = "hemodist.scoring.run_network"
"""The module that runs a network without gradients; `batch.eval_batch_size` decides its memory."""


@dataclass(frozen=True)
class Gpu:
    """The GPU of a rank, asked while it still answers.

    Attributes:
        name: the product.
        uuid: as `nvidia-smi -L` shows it.
        host: name of the machine.
        node: Ray's hexadecimal id of the node; empty without Ray.
    """

    name: str
    uuid: str
    host: str
    node: str

    @classmethod
    def of(cls, device: torch.device) -> Gpu:
        """That of a CUDA device."""
        found = torch.cuda.get_device_properties(device)
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        return cls(found.name, f"GPU-{found.uuid}", socket.gethostname(), node)


class GpuMemoryError(UserError):
    """A rank's GPU has too little memory for the batch."""


class BrokenGpuError(UserError):
    """A GPU or its driver has failed; other nodes may do.

    Attributes:
        gpu: which one.
    """

    transient = True

    def __init__(self, text: str, gpu: Gpu | None = None) -> None:
        """Keep which GPU; pickle gives the text only, and the attributes after it."""
        super().__init__(text)
        self.gpu = gpu


def explained(error: Exception, gpu: Gpu, argument: Any, world: int) -> UserError | None:
    """The error of a rank as one that a user can act on; None where it says nothing of the GPU.

    Args:
        error: as the rank's function has raised it, with its traceback.
        gpu: the rank's.
        argument: of the rank's function; the batch is read from a `Run` or `RangeTest`.
        world: number of ranks.
    """
    if not isinstance(error, RuntimeError | MemoryError):
        return None
    text = " ".join(str(error).split(". ")[0].split())[:200]
    if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_MEMORY):
        batch = batch_of(argument)
        modules = {frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)}
        if batch is None:
            remedy = "use a smaller --eval-batch-size"
        elif _VALIDATES in modules:
            remedy = f"validation has {batch.eval_batch_size} images at a time: use --batch.eval-batch-size "
            remedy += str(max(1, batch.eval_batch_size // 2))
        else:
            remedy = smaller_batch(batch, world)
        return GpuMemoryError(f"the memory of {gpu.name} on {gpu.host} is too small: {text}; {remedy}")
    if any(words in str(error) for words in _BROKEN):
        return BrokenGpuError(
            f"{gpu.name} {gpu.uuid} on {gpu.host} has failed: {text}; "
            "look for an Xid of it in that machine's kernel log (`dmesg`) and take it out of service",
            gpu,
        )
    if isinstance(error, torch.AcceleratorError):
        error.add_note(f"on {gpu.name} {gpu.uuid} of {gpu.host}")
    return None


def batch_of(argument: Any) -> BatchConfig | None:
    """The batch of what a rank's function is given, a `Run` or `RangeTest`; None of anything else."""
    run = argument.run if isinstance(argument, RangeTest) else argument
    return run.batch if isinstance(run, Run) else None


def smaller_batch(batch: BatchConfig, world: int) -> str:
    """Flags with which a rank computes on at most half as many images at a time.

    >>> smaller_batch(BatchConfig(global_batch_size=2048, mix_group=8), 8)
    'a worker has 256 images at a time: use --batch.accumulate 2, which makes the same gradient of 128 at a time'
    """
    groups = batch.global_batch_size // batch.mix_group
    fewest, most = groups // world, -(-groups // world)
    now = -(-most // batch.accumulate)
    half = max(now // 2, 1)
    accumulate = min(-(-most // half), fewest)
    then = -(-most // accumulate)
    said = f"a worker has {now * batch.mix_group} images at a time: use"
    if then < now:
        size = then * batch.mix_group
        return f"{said} --batch.accumulate {accumulate}, which makes the same gradient of {size} at a time"
    if batch.mix_group > 2 and batch.mix_group % 2 == 0:
        return f"{said} --batch.mix-group {batch.mix_group // 2} with --batch.accumulate {2 * batch.accumulate}"
    return f"{said} a smaller --model.image-size or network, or a GPU with more memory"


def unlike(names: list[str]) -> str:
    """What to say of ranks whose GPUs are of different products, by their names in rank order; empty where all agree.

    >>> unlike(["H100", "H100", "A100"])
    'ranks compute on unlike GPUs, and the slowest sets the pace: 2 x H100, 1 x A100'
    """
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    if len(counts) < 2:
        return ""
    listed = ", ".join(f"{count} x {name}" for name, count in counts.items())
    return f"ranks compute on unlike GPUs, and the slowest sets the pace: {listed}"
