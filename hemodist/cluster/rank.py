"""What every worker runs: the rank finds its place among the others, and then runs the function that it was given."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist

from hemodist.cluster import gpu_faults
from hemodist.cluster.mailbox import Posted
from hemodist.cluster.prometheus import Observed
from hemodist.config.shares import uneven
from hemodist.errors import UserError
from hemodist.events import AttemptStarted, EpochDone, Event, Failed, Note, Tell
from hemodist.world import LeavingError, World

RankFunction = Callable[[Any, World, Tell], Any]
"""What every rank runs: (argument, world, tell) -> result; defined in the library, so that workers can import it."""


@dataclass(frozen=True)
class Left:
    """What the ranks return when they have left before the end; the driver then starts them again.

    Attributes:
        step: the last one, which is saved.
        reason: why they have left.
    """

    step: int
    reason: str


def run_rank(config: dict[str, Any]) -> Any:
    """The train function that Ray Train calls on every worker, or in this process.

    Args:
        config: `function` and its `argument`; `gpu`, whether to compute on one; `tell`, told what happens; `claimed`,
            the folder that the driver owns.

    Returns:
        What the function returns; `Left` where the ranks were asked to leave; None where the driver has given up.

    Raises:
        UserError: as the function raises it, or for what it says of the GPU, see `gpu_faults`.
        Exception: whatever else the function raises, with the traceback as a note.
    """
    context = ray.train.get_context()
    grouped = dist.is_available() and dist.is_initialized()
    tell = config["tell"]
    if grouped:
        if tell.is_closed():
            return None
        if context.get_world_rank() == 0:  # first of all, so that every failure is one of an attempt
            tell(AttemptStarted(context.get_world_size()))
    device = torch.device("cuda", torch.cuda.current_device()) if config["gpu"] else torch.device("cpu")
    gpu = gpu_faults.Gpu.of(device) if config["gpu"] else None
    notice = LeavingNotice(tell, is_rank_0=context.get_world_rank() == 0) if grouped else None
    world = World(
        rank=context.get_world_rank() if grouped else 0,
        size=context.get_world_size() if grouped else 1,
        device=device,
        must_leave=notice,
        check_owner=config["claimed"].check,
    )
    # cuBLAS asks for this in deterministic mode, before its first call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        if grouped:
            config["claimed"].check_all_see_it(world)
            batch = gpu_faults.batch_of(config["argument"])
            notes = [uneven(batch.global_batch_size, batch.mix_group, world.size) if batch else ""]
            notes += [gpu_faults.unlike(world.gather(gpu.name))] if gpu else []
            for note in filter(None, notes if world.is_rank_0 else []):
                tell(Note(note))
        heard: Tell = tell if world.is_rank_0 else _tell_nobody
        if ray.is_initialized():  # Prometheus hears every rank
            heard = Observed(heard, context.get_experiment_name(), world.rank)
        if grouped:
            heard = Reported(heard)
        return config["function"](config["argument"], world, heard)
    except LeavingError as leaving:
        return Left(leaving.step, notice.reason if notice else "")
    except UserError as error:
        if grouped and not error.transient:  # the same would happen again
            tell(Failed(error))
        raise
    except Exception as error:
        error.add_note(traceback.format_exc())  # a note survives the way to the driver
        known = gpu_faults.explained(error, gpu, config["argument"], world.size) if gpu else None
        if known is None:
            raise
        if grouped and not known.transient:
            tell(Failed(known))
        raise known from error


class Reported:
    """A `Tell` that also reports each epoch's row to Ray Train: its dashboard has it in every worker's log.

    A barrier, so that every rank is told of each epoch; after validation they wait for each other anyway. No checkpoint
    goes with it: those are ours.
    """

    def __init__(self, tell: Tell) -> None:
        """Wrap a `Tell`, which is told first."""
        self._tell = tell
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler):  # the files have each row; the terminal has a line of ours
                handler.addFilter(_is_for_the_terminal)

    def __call__(self, event: Event) -> None:
        """Pass on, and report."""
        self._tell(event)
        if isinstance(event, EpochDone):
            ray.train.report(dict(event.row))


def _is_for_the_terminal(record: logging.LogRecord) -> bool:
    """False for what Ray Train says of its own doings. Its loggers are named after modules or after files."""
    return record.levelno > logging.INFO or Path(ray.train.__file__).parent not in Path(record.pathname).parents


class LeavingNotice:
    """Answers whether the ranks must save and leave, and keeps why; rank 0's answer counts.

    They must where a node is about to be taken away, or the driver asks for it.
    """

    def __init__(self, tell: Posted, *, is_rank_0: bool) -> None:
        """Nothing is known yet."""
        self._tell, self._is_rank_0 = tell, is_rank_0
        self.reason = ""

    def __call__(self) -> bool:
        """Whether to leave; a barrier, so every rank calls it equally often."""
        if ray.train.get_preemption_info() is not None:
            self.reason = "a node is about to be taken away"
        elif self._is_rank_0 and self._tell.must_leave():
            self.reason = "slots for more workers are free"
        return bool(self.reason)


def _tell_nobody(event: Event) -> None:
    """The `tell` of every rank but rank 0: the driver needs to hear each event once."""
