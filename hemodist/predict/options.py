"""The flags of `jobs/predict.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from hemodist.config.fields import MANY, Range, check_ranges, read_empty_as_none


@dataclass(frozen=True)
class PredictConfig:
    """What is predicted, and how.

    Attributes:
        checkpoint: a run's folder (its best checkpoint is taken), a .pt file, or the folder of a k-fold run, whose
            networks' probabilities are averaged.
        source: folder of DICOM files (path, s3://, gs://), looked through at every depth, or a finished data set.
        output: RSNA's submission format; beside it NAME.files.csv (a row a slice, with its file), NAME.studies.csv,
            NAME.rejected.csv (reasons), NAME.html (the most suspicious slices) and NAME.about.json (the networks).
        ensemble: further checkpoints; the probabilities of all are averaged.
        tta: average over the flips that the runs were trained with.
        repair_any: raise P(any) to the largest P of a subtype where it is below.
        explain: folder for a PNG a slice: its windows, and the Grad-CAM map of any over the first one; None for no
            pictures.
        explain_above: only slices with P(any) above this, 0 to 1; None for all.
        workers: CPUs to use over Ray; 0 runs in this process, on its GPU where there is one.
        device: where this process computes; auto takes a GPU where there is one. Ray's workers use CPUs.
        eval_batch_size: slices at once; None for the run's own.
        cache: node-local folder for shards of a remote data set; None for the run's own.
        cache_gb: GB that the copies there may take; None for the run's own.
        max_rejected_fraction: share of faulty files above which the exit code is 3; localizers, reports, other
            modalities and the like are no faults.
    """

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    output: str = "submission.csv"
    ensemble: Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="(default: none)")] = ()
    tta: bool = False
    repair_any: bool = False
    explain: str | None = None
    explain_above: Annotated[float | None, Range(0, 1)] = None
    workers: Annotated[int, Range(0, 65_536)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    eval_batch_size: Annotated[int | None, Range(1, MANY)] = None
    cache: str | None = None
    cache_gb: Annotated[float | None, Range(0, 1e9)] = None
    max_rejected_fraction: Annotated[float, Range(0, 1)] = 0.0

    def __post_init__(self) -> None:
        read_empty_as_none(self, "explain", "eval_batch_size", "cache", "cache_gb")

    def check(self) -> None:
        """Check what can be checked without the checkpoint, the source and the machine.

        Raises:
            ConfigError: a flag is out of range.
        """
        check_ranges(self)


@dataclass(frozen=True)
class Settings:
    """How slices are predicted; the same for every chunk.

    Attributes:
        checkpoints: whose probabilities are averaged.
        tta: average over the flips that each run was trained with.
        repair_any: raise P(any) to the largest P of a subtype where it is below.
        explain: folder or URI for a PNG a slice with its windows and the heat map of `any`; None for no pictures.
        explain_above: only slices with P(any) above this get a PNG; None for all.
        eval_batch_size: slices at once; None for the run's own.
        device: `cpu` or `cuda`.
        cache: node-local folder for shards of a remote data set; None for the run's own.
        cache_gb: GB that the copies there may take; None for the run's own.
    """

    checkpoints: tuple[str, ...]
    tta: bool = False
    repair_any: bool = False
    explain: str | None = None
    explain_above: float | None = None
    eval_batch_size: int | None = None
    device: str = "cpu"
    cache: str | None = None
    cache_gb: float | None = None
