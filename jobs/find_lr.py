"""Find a learning rate: `python jobs/find_lr.py RECIPE --data.dataset DATASET [--field value ...]`.

Leslie Smith's range test on the recipe's own data, network, batch and workers. `optim.lr found` then uses the result.
"""

from __future__ import annotations

from hemodist.config import range_test, run
from hemodist.config.command_line import read_recipe
from hemodist.job import run_job


def main() -> None:
    """Read recipe and flags, then test."""
    test = read_recipe(__doc__, "--steps 300", range_test.RangeTest).config
    range_test.check(test)
    run.check(test.run)

    from hemodist.launch.find_lr import find_lr

    find_lr(test)


if __name__ == "__main__":
    run_job(main)
