"""How fast a run goes, and what its time goes into, measured between two logged rows; makes no step wait."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Literal

import torch

from hemodist.config.run import Run
from hemodist.models.flops import peak_flops, training_flops
from hemodist.world import World


class Throughput:
    """Counts steps, seconds, and the seconds spent waiting for data and for the device."""

    def __init__(self, run: Run, world: World, step: int = 0) -> None:
        """Work out what one image costs, where the device's peak is known, and start the clock.

        Args:
            run: batch size, network and precision.
            world: the ranks.
            step: optimizer updates made so far.
        """
        self._images_a_step = run.batch.global_batch_size
        self._world = world
        self._gpu = world.device.type == "cuda"
        self._share_of_peak: float | None = None  # of all devices together, spent by one image a second
        if self._gpu and run.scaling.precision != "fp32" and world.is_rank_0:
            peak = peak_flops(torch.cuda.get_device_name(world.device))
            self._share_of_peak = training_flops(run.model) / (peak * world.size) if peak else None
        self.restart(step)

    def restart(self, step: int) -> None:
        """Count from `step` and from now."""
        self._step, self._clock, self._waited = step, time.monotonic(), {"data": 0.0, "device": 0.0}

    @contextlib.contextmanager
    def waiting(self, source: Literal["data", "device"]) -> Iterator[None]:
        """What happens in the block is waiting for data, or until the device has computed."""
        before = time.monotonic()
        yield
        self._waited[source] += time.monotonic() - before

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """The block gives a step to the device. A CPU computes it there and then; a GPU's host only says what to do."""
        return contextlib.nullcontext() if self._gpu else self.waiting("device")

    def read(self, step: int) -> dict[str, float]:
        """The figures since the last `restart`, then start again.

        Returns:
            images_per_s over all ranks; data_wait_share and device_share, 0 to 1; on GPUs gpu_memory_gib, the most that
            tensors have taken of rank 0's; mfu, 0 to 1, where the device's peak is known and the precision is bf16.
        """
        seconds = max(time.monotonic() - self._clock, 1e-9)
        rate = (step - self._step) * self._images_a_step / seconds
        figures = {"images_per_s": rate, "data_wait_share": self._waited["data"] / seconds}
        figures["device_share"] = self._waited["device"] / seconds
        if self._gpu:
            figures["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self._world.device) / 2**30
        if self._share_of_peak is not None:
            figures["mfu"] = rate * self._share_of_peak
        self.restart(step)
        return figures
