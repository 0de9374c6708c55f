"""Score a checkpoint on a data set: `python jobs/evaluate.py RUN_OR_CHECKPOINT DATASET`."""

from __future__ import annotations

from typing import Literal

import tyro

from hemodist.config import ScalingConfig
from hemodist.evaluate import Evaluation
from hemodist.launch import evaluate
from hemodist.terminal import run_job


def main(
    checkpoint: tyro.conf.Positional[str],
    dataset: tyro.conf.Positional[str],
    /,
    output: str = "",
    part: Literal["auto", "valid", "all"] = "auto",
    scaling: ScalingConfig = ScalingConfig(workers=0),  # noqa: B008 - frozen
) -> None:
    """Score a checkpoint on a data set; writes metrics.json, predictions.parquet and report.html.

    Args:
        checkpoint: a run's folder (its best checkpoint is taken) or a .pt file.
        dataset: path or URI of a finished data set.
        output: folder or URI for what is written; by default the folder `evaluation` beside the checkpoint.
        part: valid is the run's own validation split, all are all labelled slices; auto is valid on the data set that
            the run was trained on, and all of any other.
        scaling: where it runs; 0 workers is this process, without Ray.
    """
    folder = checkpoint.rstrip("/")
    if folder.endswith(".pt"):
        folder = (
            f"./{folder}".rpartition("/")[0] if "://" not in folder and folder[0] != "/" else folder.rpartition("/")[0]
        )
        folder = folder.removesuffix("/checkpoints")
    evaluate(Evaluation(checkpoint, dataset, output or f"{folder}/evaluation", part), scaling)


if __name__ == "__main__":
    run_job(lambda: tyro.cli(main, description=__doc__))
