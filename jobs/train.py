"""Train a recipe: `python jobs/train.py RECIPE --data.dataset DATASET [--field value ...]`.

With `--data.valid-fold all` it trains a network for each fold, and scores each slice by the one that has not seen it.
"""

from __future__ import annotations

from hemodist.config.batch_rule import follow_batch
from hemodist.config.command_line import read_recipe
from hemodist.config.data import EACH_FOLD
from hemodist.config.run import check, runs_of_folds
from hemodist.job import run_job


def main() -> None:
    """Read recipe and flags, then train."""
    read = read_recipe(__doc__, "--optim.epochs 8", lambda run: run)
    run, lr_from = follow_batch(read.config, read.recipe, read.given)
    if run.data.valid_fold == EACH_FOLD:
        for fold in runs_of_folds(run):
            check(fold)

        from hemodist.launch.folds import train_folds

        train_folds(run, lr_from)
    else:
        check(run)

        from hemodist.launch.train import train

        train(run, lr_from)


if __name__ == "__main__":
    run_job(main, goes_on="")
