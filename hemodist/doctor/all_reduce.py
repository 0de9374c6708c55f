"""Bandwidth between ranks: an all-reduce over NCCL, or gloo where there are no GPUs, as training does it."""

from __future__ import annotations

import datetime
import socket
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hemodist.doctor.finding import Finding

ROUNDS = 8
MIN_NCCL = 1e9
"""Bytes/s between GPUs below which the exchange of the gradient outlasts the backward pass: 106 MB take 0.2 s."""

_TIMEOUT = datetime.timedelta(seconds=90)


@dataclass(frozen=True)
class Ring:
    """What the ranks have measured; they exchange their parts in a ring.

    Attributes:
        backend: nccl or gloo.
        ranks: number of ranks.
        bytes_per_s: bus bandwidth, 2 (n - 1) / n x bytes / seconds (nccl-tests' definition).
        exact: every rank got the right sum.
    """

    backend: str
    ranks: int
    bytes_per_s: float
    exact: bool


def measure(rank: int, ranks: int, address: str, *, gpu: bool, mebibytes: int) -> Ring:
    """Join the group, sum tensors, leave; called on every rank at the same time.

    Args:
        rank: this rank.
        ranks: number of ranks, at least 2.
        address: `host:port` of the first rank.
        gpu: sum on the current CUDA device over NCCL, else on the CPU over gloo.
        mebibytes: size of the tensor.
    """
    backend = "nccl" if gpu else "gloo"
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    method = f"tcp://{address}"
    dist.init_process_group(backend, init_method=method, rank=rank, world_size=ranks, timeout=_TIMEOUT)
    try:
        tensor = torch.full((mebibytes * 2**18,), float(rank + 1), device=device)
        dist.all_reduce(tensor)
        exact = bool((tensor == ranks * (ranks + 1) / 2).all())
        tensor.zero_()
        dist.all_reduce(tensor)
        start = _now(device)
        for _ in range(ROUNDS):
            dist.all_reduce(tensor)
        seconds = (_now(device) - start) / ROUNDS
    finally:
        dist.destroy_process_group()
    size = tensor.numel() * tensor.element_size()
    return Ring(backend, ranks, 2 * (ranks - 1) / ranks * size / seconds, exact)


def finding(ring: Ring) -> Finding:
    """What the measurement means."""
    found = f"{ring.backend}, {ring.ranks} ranks: {ring.bytes_per_s / 1e9:.2f} GB/s"
    if not ring.exact:
        return Finding("all-reduce", "all", "to do", f"{found}, and the sum is wrong", "a link or a GPU is broken")
    if ring.backend == "nccl" and ring.bytes_per_s < MIN_NCCL:
        remedy = "set NCCL_DEBUG=INFO and look which interface it takes (NCCL_SOCKET_IFNAME), and for InfiniBand or EFA"
        return Finding("all-reduce", "all", "to do", found, remedy)
    return Finding("all-reduce", "all", "pass", found)


def on_this_machine(mebibytes: int) -> Finding:
    """The check on one machine without Ray: one process for each GPU, or two on the CPU."""
    gpus = torch.cuda.device_count()
    if gpus == 1:
        return Finding("all-reduce", "all", "not there", "one GPU", "nothing is exchanged on one rank")
    ranks = gpus or 2
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    arguments = (ranks, f"127.0.0.1:{free_port()}", gpus > 0, mebibytes, results)
    processes = mp.spawn(_process, args=arguments, nprocs=ranks, join=False)  # type: ignore[attr-defined,no-untyped-call]
    while not processes.join(timeout=1):  # raises what a rank has raised
        pass
    return finding(results.get())


def free_port() -> int:
    """A TCP port of this machine that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _process(rank: int, ranks: int, address: str, gpu: bool, mebibytes: int, results: Any) -> None:
    if gpu:
        torch.cuda.set_device(rank)
    ring = measure(rank, ranks, address, gpu=gpu, mebibytes=mebibytes)
    if rank == 0:
        results.put(ring)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
