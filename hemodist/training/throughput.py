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

_SOURCES = ("data", "device", "communication")


class Throughput:
    """Counts steps, seconds, and the seconds spent waiting for data, for the device and for the other ranks."""

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
        self._read_seconds, self._read_waits = 0.0, dict.fromkeys(_SOURCES, 0.0)  # of all spans that were read
        self.restart(step)

    def restart(self, step: int) -> None:
        """Count from `step` and from now."""
        self._step, self._clock, self._waits = step, time.monotonic(), dict.fromkeys(_SOURCES, 0.0)

    @contextlib.contextmanager
    def waiting(self, source: Literal["data", "device"]) -> Iterator[None]:
        """What happens in the block is waiting for data, or until the device has computed."""
        before = time.monotonic()
        yield
        self._waits[source] += time.monotonic() - before

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """The block gives a step to the device. A CPU computes it there and then; a GPU's host only says what to do."""
        return contextlib.nullcontext() if self._gpu else self.waiting("device")

    def exchanged(self, seconds: float) -> None:
        """Count a step's wait for the other ranks; on a CPU it was counted as waiting for the device before."""
        self._waits["communication"] += seconds
        if not self._gpu:
            self._waits["device"] -= seconds

    def read(self, step: int) -> dict[str, float]:
        """The figures since the last `restart`, then start again.

        Returns:
            images_per_s over all ranks; data_wait_share, device_share and communication_share, 0 to 1; on GPUs
            gpu_memory_gib, the most that tensors have taken of rank 0's; mfu, 0 to 1, where the device's peak is known
            and the precision is bf16.
        """
        seconds = max(time.monotonic() - self._clock, 1e-9)
        rate = (step - self._step) * self._images_a_step / seconds
        shares = self._shares(seconds, self._waits)
        figures = {"images_per_s": rate, "data_wait_share": shares["data"]}
        figures |= {f"{name}_share": shares[name] for name in ("device", "communication")}
        if self._gpu:
            figures["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self._world.device) / 2**30
        if self._share_of_peak is not None:
            figures["mfu"] = rate * self._share_of_peak
        self._read_seconds += seconds
        self._read_waits = {name: self._read_waits[name] + waits for name, waits in self._waits.items()}
        self.restart(step)
        return figures

    def in_words(self) -> str:
        """What this rank's time has gone into since the start or the last restart; empty where nothing was read."""
        if not self._read_seconds:
            return ""
        shares = self._shares(self._read_seconds, self._read_waits)
        host = max(1 - sum(shares.values()) + self._gpu * shares["communication"], 0.0)
        parts = (f"{name} {shares.get(name, host):.0%}" for name in ("data", "host", "device", "communication"))
        return ", ".join(parts) + (" (of the device's)" if self._gpu else "")

    def _shares(self, seconds: float, waits: dict[str, float]) -> dict[str, float]:
        # A wait is known two steps late, when what it is subtracted from may have been read already.
        return {name: max(waits[name], 0.0) / seconds for name in _SOURCES}
