"""Compare systems as the original study did, done right: `python jobs/study.py --data.dataset DATASET`."""

from __future__ import annotations

from hemodist.config.command_line import read_flags
from hemodist.job import run_job
from hemodist.study.options import Study


def main() -> None:
    """Read the flags, then train, compare and report."""
    study = read_flags(Study(), __doc__)
    study.check()

    from hemodist.study.study import conduct

    conduct(study)


if __name__ == "__main__":
    run_job(main, goes_on="the same command goes on with the runs and checkpoints that are finished")
