"""Score a checkpoint on a data set: `python jobs/evaluate.py RUN DATASET`.

Exit code 0: scored. 1: an error of the program. 2: checkpoint, data set or a flag cannot be used. 130: interrupted.
"""

from __future__ import annotations

from typing import Annotated

import tyro

from hemodist.config.operation import ScalingConfig
from hemodist.job import filled, run_job
from hemodist.scoring.options import Options, ScoringRequest


def main(
    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")],
    /,
    output: str | None = None,
    options: Annotated[Options, tyro.conf.arg(name="scoring"), tyro.conf.OmitArgPrefixes] = Options(),  # noqa: B008
    scaling: ScalingConfig = ScalingConfig(workers=0),  # noqa: B008
) -> None:
    """Score a checkpoint on a data set; writes metrics.json, predictions.parquet and report.html.

    `--review N` also writes review.html and review.csv, for a reader to correct labels.

    Args:
        checkpoint: a run's folder (its best checkpoint is taken), a .pt file, or the folder of a k-fold run.
        dataset: path or URI of a finished data set.
        output: folder or URI for what is written; by default `evaluation` or `evaluation-PART` beside the checkpoint.
        options: how it is scored.
        scaling: where it runs; 0 workers is this process, without Ray.
    """
    from hemodist.launch.evaluate import evaluate
    from hemodist.models.trained import folder_of

    part = "" if options.part == "auto" else f"-{options.part}"
    evaluate(
        ScoringRequest(checkpoint, dataset, output or f"{folder_of(checkpoint)}/evaluation{part}", options), scaling
    )


if __name__ == "__main__":
    run_job(lambda: tyro.cli(main, description=filled(__doc__)))
