"""The ranks of a run: who this process is, and the few collectives that the loop needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

Tensors = dict[Any, torch.Tensor]


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

    @torch.no_grad()
    def share_buffers(self, module: torch.nn.Module) -> None:
        """Give every rank rank 0's buffers of `module`, in one message for each dtype.

        No step does: each rank moves its batch statistics by its own share, and only evaluation reads them.
        """
        buffers = list(module.buffers()) if self.size > 1 else []
        for dtype in dict.fromkeys(buffer.dtype for buffer in buffers):
            own = [buffer for buffer in buffers if buffer.dtype == dtype]
            flat = torch.cat([buffer.flatten() for buffer in own])
            dist.broadcast(flat, src=0)
            shared = torch.split(flat, [buffer.numel() for buffer in own])
            torch._foreach_copy_(own, [part.view_as(buffer) for part, buffer in zip(shared, own, strict=True)])


class HostCopy:
    """A copy of tensors in this process's memory. From a GPU it travels without the host waiting, until it is read."""

    def __init__(self, value: Any) -> None:
        """Send the tensors as they will be after the work that the device has been given so far.

        Args:
            value: a tensor, or dictionaries, lists and tuples of tensors and plain values.
        """
        known: Tensors = {}
        self._value = _sent(value, known)
        device = next((key[-1] for key in known if key[-1].type == "cuda"), None)
        self._arrived = torch.cuda.Event(blocking=True) if device is not None else None  # type: ignore[no-untyped-call]
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(device))

    def read(self) -> Any:
        """The same as the value with every tensor on the CPU; waits until all of them are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._value


def _sent(value: Any, known: Tensors) -> Any:
    """The value with every tensor copied, through pinned memory; tensors that share memory share the copy too."""
    if isinstance(value, torch.Tensor):
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        if key not in known or not value.numel():
            known[key] = value.detach().to("cpu", copy=True, non_blocking=True)
        return known[key]
    if isinstance(value, dict):
        return {name: _sent(item, known) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_sent(item, known) for item in value)
    return value
