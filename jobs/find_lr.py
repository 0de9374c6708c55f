"""Find a learning rate: `python jobs/find_lr.py RECIPE --data.dataset DATASET [--field value ...]`.

Leslie Smith's range test on the recipe's own data, network, batch and workers. `optim.lr found` then uses the result.
"""

from __future__ import annotations

import tyro

from hemodist.config.recipes import RECIPES
from hemodist.launch.find_lr import find_lr
from hemodist.reports.terminal import run_job
from hemodist.training.lr_range_test import RangeTest


def main() -> None:
    """Read recipe and flags, then test."""
    offered = {recipe.__name__: ((recipe.__doc__ or "").strip(), RangeTest(recipe())) for recipe in RECIPES}
    find_lr(tyro.extras.overridable_config_cli(offered, description=__doc__))


if __name__ == "__main__":
    run_job(main)
