"""Several ranks on this machine without Ray: processes joined by gloo over loopback, for tests of the loop."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hemodist.world import World
from tests.support.forks import forking


def run_ranks(function: Callable[..., Any], size: int, *arguments: Any) -> list[Any]:
    """Call `function(world, *arguments)` on `size` ranks; their results in rank order."""
    if size == 1:
        return [function(World.alone(), *arguments)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = forking().SimpleQueue()
    started = mp.start_processes(
        _rank, args=(function, size, port, arguments, queue), nprocs=size, join=False, start_method="forkserver"
    )
    # Read before joining: a process does not end before its result has been taken out of the pipe.
    results: dict[int, Any] = {}
    while len(results) < size:
        if queue.empty():
            started.join(timeout=0.1)  # raises what a rank raised
        else:
            rank, result = queue.get()
            results[rank] = result
    while not started.join():
        pass
    return [results[rank] for rank in range(size)]


def _rank(rank: int, function: Callable[..., Any], size: int, port: int, arguments: tuple, queue: Any) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    try:
        queue.put((rank, function(World(rank, size, torch.device("cpu")), *arguments)))
    finally:
        dist.destroy_process_group()
