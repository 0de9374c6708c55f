"""Train a recipe: `python jobs/train.py RECIPE --data.dataset DATASET [--field value ...]`."""

from __future__ import annotations

import tyro

from hemodist.config.recipes import RECIPES
from hemodist.launch.train import train
from hemodist.reports.terminal import run_job


def main() -> None:
    """Read recipe and flags, then train."""
    offered = {recipe.__name__: ((recipe.__doc__ or "").strip(), recipe()) for recipe in RECIPES}
    train(tyro.extras.overridable_config_cli(offered, description=__doc__))


if __name__ == "__main__":
    run_job(main)
