"""What is scored, and how: the flags of `jobs/evaluate.py`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from hemodist.config.fields import MANY, Range, read_empty_as_none
from hemodist.config.run import Run


@dataclass(frozen=True)
class Options:
    """How it is scored.

    Attributes:
        part: `valid` or `test`, that fold of the run's own split, on the data set that it was trained on; `all`
            labelled slices, those of the training among them; `auto` is valid on the run's own data set, and all of any
            other.
        tta: average over the flips that the run was trained with.
        repair_any: raise P(any) to the largest P of a subtype where it is below.
        worst: slices of either kind that the report shows; 0 for none.
        review: slices whose labels are most doubtful that `review.html` shows and `review.csv` lists, for a reader to
            correct; 0 for none.
        review_predictions: `predictions.parquet` of networks that never learned from its slices, one of each fold's
            run; for the review they take the place of this network, and their slices are reviewed too.
        masks: path or URI of truth masks (`python -m shards phantom --masks`), for the pointing game; None for none.
        cache: node-local folder for shards of a remote data set; None, here and below, for the run's own.
        cache_gb: GB that the copies there may take.
        eval_batch_size: samples a rank evaluates at once.
        decode_threads: DALI's CPU threads a worker.
        decoder: what decodes; as `data.decoder` of the run.
        on_corrupt: stop at a sample that does not match its checksum, or mask it out.
    """

    part: Literal["auto", "valid", "test", "all"] = "auto"
    tta: bool = False
    repair_any: bool = False
    worst: Annotated[int, Range(0, 1000)] = 6
    review: Annotated[int, Range(0, 100_000)] = 0
    review_predictions: tuple[str, ...] = ()
    masks: str | None = None
    cache: str | None = None
    cache_gb: Annotated[float | None, Range(0, 1e9)] = None
    eval_batch_size: Annotated[int | None, Range(1, MANY)] = None
    decode_threads: Annotated[int | None, Range(1, 256)] = None
    decoder: Literal["auto", "cpu", "mixed"] | None = None
    on_corrupt: Literal["stop", "mask"] | None = None

    def __post_init__(self) -> None:
        read_empty_as_none(self, "masks", "cache", "cache_gb", "eval_batch_size", "decode_threads")

    def applied(self, run: Run, dataset: str) -> Run:
        """The run's configuration with what is given here."""
        given = {name: getattr(self, name) for name in ("cache", "cache_gb", "decode_threads", "decoder", "on_corrupt")}
        data = replace(run.data, dataset=dataset, **{k: value for k, value in given.items() if value is not None})
        size = run.batch.eval_batch_size if self.eval_batch_size is None else self.eval_batch_size
        batch = replace(run.batch, eval_batch_size=size)
        return replace(run, data=data, batch=batch)


@dataclass(frozen=True)
class ScoringRequest:
    """What is to be scored.

    Attributes:
        checkpoint: a run's folder (its best checkpoint), a `.pt` file, or the folder of a k-fold run.
        dataset: path or URI of a finished data set.
        output: folder or URI for scores, predictions and report.
        options: how.
    """

    checkpoint: str
    dataset: str
    output: str
    options: Options = field(default_factory=Options)
