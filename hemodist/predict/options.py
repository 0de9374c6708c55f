"""The flags of `jobs/predict.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from hemodist.config.fields import read_empty_as_none
from hemodist.errors import ConfigError
from hemodist.predict.new_slices import Settings
from hemodist.predict.submission import place
from hemodist.storage.store import Store


@dataclass(frozen=True)
class PredictConfig:
    """What is predicted, and how.

    Attributes:
        checkpoint: a run's folder (its best checkpoint is taken) or a .pt file.
        source: folder of DICOM files (path, s3://, gs://), looked through at every depth, or a finished data set.
        output: RSNA's submission format; beside it NAME.studies.csv (a row a study) and NAME.rejected.csv (reasons).
        ensemble: further checkpoints; the probabilities of all are averaged.
        tta: average over the flips that the runs were trained with.
        repair_any: raise P(any) to the largest P of a subtype where it is below.
        explain: folder for a PNG a slice: its windows, and the Grad-CAM map of any over the first one; None for no
            pictures.
        explain_above: only slices with P(any) above this, 0 to 1; None for all.
        workers: CPUs to use over Ray; 0 runs in this process, on its GPU where there is one.
        device: of this process; auto takes a GPU where there is one. Ray's workers use CPUs.
        eval_batch_size: slices at once; None for the run's own.
        cache: node-local folder for shards of a remote data set; None for the run's own.
        cache_gb: GB that the copies there may take; None for the run's own.
        max_rejected_fraction: share of files without a prediction above which the exit code is 3.
    """

    checkpoint: Annotated[str, tyro.conf.Positional]
    source: Annotated[str, tyro.conf.Positional]
    output: str = "submission.csv"
    ensemble: tuple[str, ...] = ()
    tta: bool = False
    repair_any: bool = False
    explain: str | None = None
    explain_above: float | None = None
    workers: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    eval_batch_size: int | None = None
    cache: str | None = None
    cache_gb: float | None = None
    max_rejected_fraction: float = 0.0

    def __post_init__(self) -> None:
        read_empty_as_none(self, "explain", "eval_batch_size", "cache", "cache_gb")

    def settings(self) -> Settings:
        """What every chunk is told, with absolute paths, since workers have another working directory.

        Raises:
            ConfigError: a flag is out of range.
        """
        for name in ("workers", "eval_batch_size", "cache_gb"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise ConfigError(f"{name} is {value}; use 0 or more")
        if not 0 <= self.max_rejected_fraction <= 1:
            raise ConfigError(f"max_rejected_fraction is {self.max_rejected_fraction}; use a share from 0 to 1")
        gpu = torch.cuda.is_available() and not self.workers
        if self.device == "cuda" and not gpu:
            raise ConfigError("device cuda needs a GPU in this process and --workers 0; use --device auto")
        checkpoints = (self.checkpoint, *self.ensemble)
        return Settings(
            checkpoints=tuple(one if "://" in one else str(Path(one).expanduser().resolve()) for one in checkpoints),
            tta=self.tta,
            repair_any=self.repair_any,
            explain=None if self.explain is None else Store.open(self.explain).uri,
            explain_above=self.explain_above,
            eval_batch_size=self.eval_batch_size,
            cache=None if self.cache is None else str(Path(self.cache).expanduser().resolve()),
            cache_gb=self.cache_gb,
            device="cuda" if gpu and self.device != "cpu" else "cpu",
        )

    def check_source(self, source: Store, is_dataset: bool) -> None:
        """Check that the flags suit the source.

        Raises:
            ConfigError: they do not.
        """
        if is_dataset and self.workers:
            raise ConfigError(
                f"{source.uri} is a data set, which is predicted in this process, on its GPU where there is one; leave "
                "--workers out, it is for folders of DICOM files"
            )
        for output in (place(self.output)[0], *([] if self.explain is None else [Store.open(self.explain)])):
            if source.contains(output):  # what is written there would be taken for a scan the next time
                raise ConfigError(f"{output.uri} lies in the source {source.uri}; choose a folder outside it")
