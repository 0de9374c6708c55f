"""Where a step's time and memory go: named ranges, and a trace of some steps (`tracking.profile`)."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from hemodist.storage.store import Store
from hemodist.world import World

FOLDER = "profile"
"""Below the run's folder: `trace.json.gz` for Perfetto or chrome://tracing, and on GPUs `memory.pickle` for
https://pytorch.org/memory_viz."""

WARM_UP = 5
"""Steps that are not traced: caches fill, and kernels are chosen."""


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Name what happens in the block, in the trace and, on GPUs, as an NVTX range for NVIDIA's tools."""
    nvtx = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with record_function(name):
        if nvtx:
            torch.cuda.nvtx.range_push(name)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            if nvtx:
                torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]


class Profile:
    """Traces rank 0's first steps after the start or a restart, and writes the trace once."""

    def __init__(self, steps: int, world: World, store: Store, note: Callable[[str], None]) -> None:
        """Trace nothing yet.

        Args:
            steps: to trace; 0 for none.
            world: the ranks; only rank 0 traces.
            store: the run's folder.
            note: told where the trace is.
        """
        self._left, self._warm_up = steps if world.is_rank_0 else 0, WARM_UP
        self._gpu, self._store, self._note = world.device.type == "cuda", store, note
        self._profiler: profile | None = None

    def step_made(self) -> None:
        """Count a step; begin and end the trace."""
        if not self._left:
            return
        if self._profiler is None:
            self._warm_up -= 1
            if not self._warm_up:
                self._begin()
            return
        self._left -= 1
        if not self._left:
            self.end()

    def end(self) -> None:
        """Write what was traced, where that has not been done."""
        profiler, self._profiler, self._left = self._profiler, None, 0
        if profiler is None:
            return
        if self._gpu:
            torch.cuda.synchronize()
        profiler.stop()
        with tempfile.TemporaryDirectory() as folder:
            profiler.export_chrome_trace(str(Path(folder, "trace.json.gz")))
            if self._gpu:
                torch.cuda.memory._dump_snapshot(str(Path(folder, "memory.pickle")))  # type: ignore[no-untyped-call]
                torch.cuda.memory._record_memory_history(enabled=None)
            for path in sorted(Path(folder).iterdir()):
                self._store.write(f"{FOLDER}/{path.name}", path.read_bytes())
        self._note(
            f"the trace of the profiled steps is {self._store.uri}/{FOLDER}/trace.json.gz; ui.perfetto.dev shows it"
        )

    def _begin(self) -> None:
        if self._gpu:
            torch.cuda.memory._record_memory_history(max_entries=100_000)
        self._profiler = profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * self._gpu])
        self._profiler.start()
