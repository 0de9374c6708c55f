"""The ranks of a run: who this process is, and the few collectives that the loop needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

Tell = Callable[[Mapping[str, Any]], None]
"""How a rank says what happens: an event has a `kind`, one of step (step, total, loss, images_per_s), epoch (row),
evaluating (done, total), note (text) and failed (error, a `UserError`)."""


@dataclass(frozen=True)
class World:
    """One rank's view of the run.

    Attributes:
        rank: 0 to `size` - 1.
        size: number of ranks.
        device: what this rank computes on.
    """

    rank: int
    size: int
    device: torch.device

    @classmethod
    def alone(cls, device: torch.device | str = "cpu") -> World:
        """A world of one rank, without a process group."""
        return cls(0, 1, torch.device(device))

    @property
    def is_chief(self) -> bool:
        """True on the one rank that writes files and logs."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable `value`, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered

    def broadcast(self, value: Any) -> Any:
        """The chief's picklable `value`, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The element-wise sum over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def share_buffers(self, module: torch.nn.Module) -> None:
        """Give every rank the chief's buffers of `module`: batch statistics are each rank's own otherwise."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)
