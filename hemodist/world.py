"""The ranks of a run: who this process is, and the few collectives that the loop needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


class LeavingError(Exception):
    """The ranks stop here with a checkpoint of this step: a node is about to be taken away, or others have come.

    Attributes:
        step: optimizer updates made and saved.
    """

    def __init__(self, step: int) -> None:
        """Say where the ranks stopped."""
        super().__init__(f"left at step {step}")
        self.step = step


@dataclass(frozen=True)
class World:
    """One rank's view of the run.

    Attributes:
        rank: 0 to `size` - 1.
        size: number of ranks.
        device: what this rank computes on.
        must_leave: whether the ranks must save and leave, since a node of theirs is about to be taken away or there are
            more of them to be. A barrier: every rank calls it equally often, and rank 0's answer counts. None where
            nobody can know.
        check_owner: raises where another driver has taken over the folder that rank 0 writes into. None where no
            driver has claimed it.
    """

    rank: int
    size: int
    device: torch.device
    must_leave: Callable[[], bool] | None = None
    check_owner: Callable[[], None] | None = None

    @classmethod
    def alone(cls, device: torch.device | str = "cpu") -> World:
        """A world of one rank, without a process group."""
        return cls(0, 1, torch.device(device))

    @property
    def is_rank_0(self) -> bool:
        """True on the one rank that writes files and logs."""
        return self.rank == 0

    def check_still_owner(self) -> None:
        """On rank 0, before it writes: check that no other driver has taken the folder over.

        Raises:
            UserError: one has; the text names it.
        """
        if self.is_rank_0 and self.check_owner is not None:
            self.check_owner()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's picklable `value`, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, value)
        return gathered

    def broadcast(self, value: Any) -> Any:
        """Rank 0's picklable `value`, on every rank."""
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
        """Give every rank rank 0's buffers of `module`, as DDP does before each forward pass.

        Since the last one each rank has moved its batch statistics by its own share.
        """
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)
