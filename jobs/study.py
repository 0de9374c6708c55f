"""Compare systems as the original study did, done right: `python jobs/study.py --data.dataset DATASET`."""

from __future__ import annotations

import tyro

from hemodist.reports.terminal import run_job
from hemodist.study.study import Study, conduct


def main() -> None:
    """Read the flags, then train, compare and report."""
    conduct(tyro.cli(Study, description=__doc__))


if __name__ == "__main__":
    run_job(main)
