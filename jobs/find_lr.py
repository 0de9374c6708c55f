"""Find a learning rate: `python jobs/find_lr.py RECIPE --data.dataset DATASET [--field value ...]`.

Leslie Smith's range test on the recipe's own data, network, batch and workers. `optim.lr found` then uses the result.
"""

from __future__ import annotations

import tyro

from hemodist.find_lr import find_lr
from hemodist.range_test import RangeTest
from hemodist.recipes import RECIPES
from hemodist.terminal import run_job


def main() -> None:
    """Read recipe and flags, then test."""
    offered = {recipe.__name__: ((recipe.__doc__ or "").strip(), RangeTest(recipe())) for recipe in RECIPES}
    find_lr(tyro.extras.overridable_config_cli(offered, description=__doc__))


if __name__ == "__main__":
    run_job(main)
