"""Several runs on one cluster. A process of its own looks after each, so that what ends one leaves the others alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hemodist.cluster.mailbox import Mailbox
from hemodist.events import Event, Tell

LookAfter = Callable[[Any, bool, Tell], str]
"""Makes one run: (run, whether it computes on GPUs, told what happens) -> what went wrong, or nothing."""

_POLL_SECONDS = 0.3
_RETRIES = 3  # of the process that looks after a run; the run goes on from its checkpoint


def run_side_by_side(
    runs: Mapping[str, Any],
    look_after: LookAfter,
    at_a_time: int,
    tell_of: Callable[[str], Tell],
    ended: Callable[[str, str], None],
    *,
    gpu: bool,
) -> dict[str, str]:
    """Make runs, so many at a time, in their order. Ray must be up.

    Args:
        runs: what `look_after` is given, by name.
        look_after: of a module that the workers can import.
        at_a_time: most runs at a time.
        tell_of: who is told what happens in a run, by its name.
        ended: called with a run's name and what went wrong as soon as it has ended.
        gpu: passed on.

    Returns:
        What went wrong, by name, of the runs that failed.
    """
    # On the driver's node, so that they live as long as the driver.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(Mailbox).remote()
    task = ray.remote(num_cpus=0, max_retries=_RETRIES, scheduling_strategy=here)(_looked_after)
    waiting, running, failed = list(runs), dict[Any, str](), dict[str, str]()
    while waiting or running:
        while waiting and len(running) < at_a_time:
            name = waiting.pop(0)
            running[task.remote(look_after, name, runs[name], gpu, mailbox)] = name
        done, _ = ray.wait(list(running), timeout=_POLL_SECONDS)
        events: list[tuple[str, Event]] = ray.get(mailbox.take.remote())
        for name, event in events:
            tell_of(name)(event)
        for reference in done:
            name = running.pop(reference)
            try:
                text = ray.get(reference)
            except RayError as error:
                text = f"{type(error).__name__}: {error}"
            if text:
                failed[name] = text
            ended(name, text)
    return failed


def _looked_after(look_after: LookAfter, name: str, run: Any, gpu: bool, mailbox: Any) -> str:
    def tell(event: Event) -> None:
        mailbox.put.remote((name, event))

    return look_after(run, gpu, tell)
