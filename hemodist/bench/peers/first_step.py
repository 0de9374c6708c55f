"""Train one step as `jobs/train.py` does in its own process, and tell when it was made.

Arguments: a data set, a folder for the run, and `hemodist` or `limit`. The limit imports the same libraries and trains
the same network one step on noise: what remains when nothing is read, checked or planned.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what it takes to import is measured
    from hemodist.events import Event

DONE = "first step"


def main() -> None:
    """Run up to the end of the first step, then end at once."""
    from hemodist.cluster.workers import run_in_process
    from hemodist.config.recipes import debug
    from hemodist.launch.train import absolute
    from hemodist.training.loop import train

    recipe = debug()
    # Of the small data set's three patients, the first validates.
    data = dataclasses.replace(recipe.data, dataset=sys.argv[1], valid_fold=3)
    tracking = dataclasses.replace(recipe.tracking, log_every=1)
    run = dataclasses.replace(recipe, output=sys.argv[2], data=data, tracking=tracking)
    if sys.argv[3] == "limit":
        _limit(run)
    else:
        run_in_process(train, absolute(run), gpu=False, tell=_tell, folder=f"{run.output}/{run.name}")


def _tell(event: Event) -> None:
    from hemodist.events import StepDone

    if isinstance(event, StepDone):
        _done()


def _limit(run: Any) -> None:
    import torch

    from hemodist.models.network import build_network
    from hemodist.training import optimizer as optim

    network = build_network(run.model)
    optimizer = optim.build(network, run.optim)
    images = torch.randn(run.batch.global_batch_size, 3, run.model.image_size, run.model.image_size)
    network(images).square().mean().backward()
    optimizer.step()
    _done()


def _done() -> None:
    print(DONE, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
