"""Bandwidth between ranks: an all-reduce over NCCL, or gloo where there are no GPUs, as training does it."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hemodist.doctor.finding import Finding

ROUNDS = 8
LARGER = 8
"""NCCL sums a second tensor, so many times as large: the first is of a gradient's size, this one shows the links."""

MIN_NVLINK, MIN_PCIE, MIN_BETWEEN = 100e9, 5e9, 10e9
"""Bytes/s that are too few: in a node whose GPUs have NVLink (8 H100 give 250 to 400 GB/s, and 10 to 20 over PCIe where
the fabric manager is down), in one without, and between nodes (a card of 100 Gbit/s gives 12, TCP at 10 Gbit/s 1.1)."""

_TIMEOUT = datetime.timedelta(seconds=90)


@dataclass(frozen=True)
class Ring:
    """What the ranks have measured; they exchange their parts in a ring.

    Attributes:
        backend: nccl or gloo.
        ranks: number of ranks.
        bytes_per_s: bus bandwidth, 2 (n - 1) / n x bytes / seconds (nccl-tests' definition), of the faster size.
        exact: every rank got the right sum.
        nvlink: whether this rank's node joins its GPUs by NVLink.
        transports: how NCCL has reached the other ranks from this one, such as `P2P`, `SHM`, `NET/IB` or `NET/Socket`.
    """

    backend: str
    ranks: int
    bytes_per_s: float
    exact: bool
    nvlink: bool = False
    transports: tuple[str, ...] = ()


def measure(rank: int, ranks: int, address: str, *, gpu: bool, mebibytes: int) -> Ring:
    """Join the group, sum tensors, leave; called on every rank at the same time, once in a process.

    Args:
        rank: this rank.
        ranks: number of ranks, at least 2.
        address: `host:port` of the first rank.
        gpu: sum on the current CUDA device over NCCL, else on the CPU over gloo.
        mebibytes: size of the tensor; NCCL also sums one `LARGER` times as large.
    """
    if not gpu:
        return _measure(rank, ranks, address, torch.device("cpu"), [mebibytes])
    with tempfile.TemporaryDirectory() as folder:
        # Read when NCCL is first used: which way it takes stands in its log only.
        log = Path(folder, "nccl")
        os.environ.update(NCCL_DEBUG="INFO", NCCL_DEBUG_SUBSYS="INIT,NET,P2P,SHM", NCCL_DEBUG_FILE=str(log))
        device = torch.device("cuda", torch.cuda.current_device())
        ring = _measure(rank, ranks, address, device, [mebibytes, LARGER * mebibytes])
        said = log.read_text(errors="replace") if log.exists() else ""
    return Ring(ring.backend, ranks, ring.bytes_per_s, ring.exact, has_nvlink(_topology()), transports(said))


def _measure(rank: int, ranks: int, address: str, device: torch.device, sizes: list[int]) -> Ring:
    backend = "nccl" if device.type == "cuda" else "gloo"
    method = f"tcp://{address}"
    dist.init_process_group(backend, init_method=method, rank=rank, world_size=ranks, timeout=_TIMEOUT)
    exact, best = True, 0.0
    try:
        for mebibytes in sizes:
            tensor = torch.full((mebibytes * 2**18,), float(rank + 1), device=device)
            dist.all_reduce(tensor)
            exact &= bool((tensor == ranks * (ranks + 1) / 2).all())
            tensor.zero_()
            dist.all_reduce(tensor)
            start = _now(device)
            for _ in range(ROUNDS):
                dist.all_reduce(tensor)
            seconds = (_now(device) - start) / ROUNDS
            best = max(best, 2 * (ranks - 1) / ranks * tensor.numel() * tensor.element_size() / seconds)
    finally:
        dist.destroy_process_group()
    return Ring(backend, ranks, best, exact)


def finding(measured: list[Ring], where: str, nodes: int) -> Finding:
    """What a measurement means; its slowest rank counts.

    Args:
        measured: of every rank.
        where: whose ranks, in the table's column for nodes.
        nodes: that the ranks are on.
    """
    ring = min(measured, key=lambda one: (one.exact, one.bytes_per_s))
    ways = sorted({way for one in measured for way in one.transports})
    found = f"{ring.backend}, {ring.ranks} ranks{' over ' + ', '.join(ways) if ways else ''}: "
    found += f"{ring.bytes_per_s / 1e9:.2f} GB/s"
    if not ring.exact:
        return Finding("all-reduce", where, "to do", f"{found}, and the sum is wrong", "a link or a GPU is broken")
    remedy = ""
    if ring.backend == "nccl" and nodes > 1 and ring.bytes_per_s < MIN_BETWEEN:
        remedy = "look at each card's rate (`ibstat`) and for GPUDirect (nvidia-peermem)"
        if "NET/Socket" in ways:
            remedy = (
                "NCCL speaks TCP: for InfiniBand see k8s/components/rdma, for EFA AWS's plugin; else a faster network"
            )
            remedy += ", the right interface (NCCL_SOCKET_IFNAME), or --scaling.gradients bf16"
    elif ring.backend == "nccl" and nodes == 1 and ring.nvlink and ring.bytes_per_s < MIN_NVLINK:
        remedy = "the node has NVLink: is nvidia-fabricmanager up, does `nvidia-smi nvlink --status` show all links, "
        remedy += "is NCCL_P2P_DISABLE unset?"
    elif ring.backend == "nccl" and nodes == 1 and ring.bytes_per_s < MIN_PCIE:
        remedy = "see `nvidia-smi topo -m`; for P2P, ACS must be off and NCCL_P2P_DISABLE unset; /dev/shm must be large"
    if remedy:
        limit = MIN_BETWEEN if nodes > 1 else MIN_NVLINK if ring.nvlink else MIN_PCIE
        return Finding("all-reduce", where, "to do", f"{found}, under {limit / 1e9:.0f}", remedy)
    return Finding("all-reduce", where, "pass", found)


def has_nvlink(topology: str) -> bool:
    """Whether what `nvidia-smi topo -m` prints has GPUs that NVLink joins.

    >>> has_nvlink("GPU0  X   NV18"), has_nvlink("GPU0  X   PHB")
    (True, False)
    """
    return re.search(r"\bNV\d+\b", topology) is not None


def transports(log: str) -> tuple[str, ...]:
    """How ranks reach each other, by NCCL's log at level INFO.

    >>> transports("n:1:1 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[0] [send] via NET/Socket/0")
    ('NET/Socket',)
    """
    return tuple(sorted(set(re.findall(r"\bvia (P2P|SHM|NET/\w+)", log))))


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
    return finding([results.get() for _ in range(ranks)], "all", nodes=1)


def free_port() -> int:
    """A TCP port of this machine that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _process(rank: int, ranks: int, address: str, gpu: bool, mebibytes: int, results: Any) -> None:
    if gpu:
        torch.cuda.set_device(rank)
    results.put(measure(rank, ranks, address, gpu=gpu, mebibytes=mebibytes))


def _topology() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    return subprocess.run(["nvidia-smi", "topo", "-m"], capture_output=True, text=True, check=False, timeout=30).stdout


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
