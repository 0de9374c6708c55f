"""What is read, in which batches, and how it is changed before the network sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from hemodist.config.fields import MANY, DecidesBestLr, DecidesSamples, Often, Range, Word, read_empty_as_none

EACH_FOLD = -(2**31)
"""`valid_fold` of a k-fold run, `all` on the command line: each fold validates, in a run of its own."""


@dataclass(frozen=True)
class DataConfig:
    """What is read."""

    dataset: Annotated[str, Often(required=True)] = ""
    """Path or URI of a finished data set (a folder with manifest.json). Recipes leave it empty."""

    subset: Annotated[int | None, Range(3, MANY, checked_by="plan.split.split"), Often()] = None
    """Total number of slices, train and valid together; None for all. 1500 is the original study's."""

    selection: Literal["all", "balanced"] = "all"
    """All slices, or balanced: every slice with hemorrhage and as many without, the first in shard order."""

    folds: Annotated[int, Range(2, MANY, checked_by="plan.split.split")] = 5
    """Number of folds that the groups (patients) are hashed into."""

    valid_fold: Annotated[int, Range(0, MANY, checked_by="plan.split.split"), Word("all", EACH_FOLD)] = 0
    """The fold that validates, 0 to `folds` - 1; the others train.
    With `all`, `jobs/train.py` trains a run for each fold."""

    test_fold: Annotated[int | None, Range(0, MANY, checked_by="plan.split.split")] = None
    """A fold that neither trains nor validates, for a last score; None for none."""

    fold_seed: Annotated[int, Range(0, MANY)] = 0
    """Key of the fold hash: another one gives other folds."""

    cache: str = "~/.cache/hemodist"
    """Node-local folder for shards of a remote data set; local data sets are read in place."""

    cache_gb: Annotated[float | None, Range(1e-6, 1e9)] = None
    """GB (10^9 bytes) that all copies in `cache` may take together; None for nine tenths of what the disk has.
    The shards that the plan needs last are deleted first."""

    on_corrupt: Literal["stop", "mask"] = "stop"
    """Stop at a sample that does not match its checksum, or mask it out, count and log it."""

    decode_threads: Annotated[int | None, Range(1, 256)] = None
    """DALI's CPU threads a worker.
    None on a GPU is two fewer than the worker's CPUs, at most 16; where the network is on the CPU 4."""

    decoder: Literal["auto", "cpu", "mixed"] = "auto"
    """Mixed decodes JPEG on the GPU, cpu on the CPU; auto is mixed where the worker has a GPU."""

    hw_decoder_load: Annotated[float, Range(0, 1)] = 0.9
    """Share of a batch that the GPU's JPEG engine decodes, where it has one.
    The worker's CPUs and the GPU's cores decode the rest.
    With `scaling.deterministic` 0: the two round differently, and which image goes where depends on the batch."""

    prefetch: Annotated[int | None, Range(1, 64)] = None
    """Batches that DALI prepares ahead; None for 2 on a GPU, and 1 where the network is on the CPU.
    There decoding beside it takes its cores away while its other threads wait (3 % of a step on two cores)."""

    def __post_init__(self) -> None:
        read_empty_as_none(self, "prefetch")

    @property
    def cache_bytes(self) -> int | None:
        """`cache_gb` in bytes."""
        return None if self.cache_gb is None else round(self.cache_gb * 1e9)

    def threads(self, device: str, cpus: int) -> int:
        """`decode_threads` as a number, for a network on a device of this type and a worker with so many CPUs.

        >>> [DataConfig().threads("cuda", cpus) for cpus in (1, 10, 64)], DataConfig().threads("cpu", 10)
        ([1, 8, 16], 4)
        """
        return self.decode_threads or (min(max(cpus - 2, 1), 16) if device == "cuda" else 4)

    def batches_ahead(self, device: str) -> int:
        """`prefetch` as a number, for a network on a device of this type, such as `cuda`."""
        return self.prefetch or (2 if device == "cuda" else 1)


@dataclass(frozen=True)
class BatchConfig:
    """How the stream of samples is cut."""

    global_batch_size: Annotated[
        int, Range(1, MANY, checked_by="config.shares.check_batch"), DecidesSamples(), DecidesBestLr(), Often()
    ] = 64
    """Samples a step, over all ranks; a multiple of `mix_group`."""

    mix_group: Annotated[int, Range(1, MANY, checked_by="config.shares.check_batch"), DecidesSamples()] = 8
    """Consecutive samples that CutMix may mix with each other; a rank reads whole groups."""

    accumulate: Annotated[int, Range(1, MANY)] = 1
    """Micro-batches that a rank splits its share into; the gradient is that of the whole share.
    With batch norm another number is another training, since batch statistics see a micro-batch."""

    block_shards: Annotated[int, Range(1, MANY, checked_by="plan.order.Plan"), DecidesSamples()] = 16
    """Shards whose samples are shuffled together."""

    eval_batch_size: Annotated[int, Range(1, MANY)] = 64
    """Samples a rank evaluates at once; no more than there are."""

    sampling: Annotated[Literal["uniform", "balanced", "weighted"], DecidesSamples(), DecidesBestLr()] = "uniform"
    """How often an epoch reads a slice.
    uniform: once.
    balanced: each class equally often, where a class is a slice's rarest positive subtype, or none.
    weighted: by `label_weights`.
    An epoch stays as long as the training split.
    A slice is read its share of it, rounded down or up by a draw for (seed, epoch)."""

    label_weights: Annotated[
        tuple[int, int, int, int, int, int], Range(0, 1000), DecidesSamples(), DecidesBestLr()
    ] = (1, 1, 1, 1, 1, 1)  # fmt: skip
    """Weights for weighted sampling, whole numbers in the order of the labels.
    The largest one of a slice's positive labels counts, beside 1 for a slice without any."""

    def __post_init__(self) -> None:
        """JSON knows lists only."""
        object.__setattr__(self, "label_weights", tuple(self.label_weights))


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths of the augmentation; all zero (and `min_crop_area` 1) is none."""

    min_crop_area: Annotated[float, Range(0.01, 1), DecidesSamples(), DecidesBestLr()] = 1.0
    """Smallest square crop, as a share of the image's area, 0.01 to 1."""

    flip_horizontal: Annotated[float, Range(0, 1), DecidesSamples(), DecidesBestLr()] = 0.0
    """Probability of a left-right flip."""

    flip_vertical: Annotated[float, Range(0, 1), DecidesSamples(), DecidesBestLr()] = 0.0
    """Probability of an up-down flip."""

    transpose: Annotated[float, Range(0, 1), DecidesSamples(), DecidesBestLr()] = 0.0
    """Probability of a transposition."""

    rotation_degrees: Annotated[float, Range(0, 180), DecidesSamples(), DecidesBestLr()] = 0.0
    """Largest rotation either way, in degrees."""

    brightness: Annotated[float, Range(0, 1), DecidesSamples(), DecidesBestLr()] = 0.0
    """Largest shift, as a share of the window's width."""

    contrast: Annotated[float, Range(0, 1), DecidesSamples(), DecidesBestLr()] = 0.0
    """Largest relative change of contrast."""


@dataclass(frozen=True)
class MixConfig:
    """CutMix or mixup."""

    kind: Annotated[Literal["none", "cutmix", "mixup"], DecidesSamples(), DecidesBestLr()] = "none"
    """`none`, `cutmix` or `mixup`."""

    probability: Annotated[float, Range(0, 1), DecidesSamples(), DecidesBestLr()] = 1.0
    """Probability that a mix group is mixed."""

    alpha: Annotated[float, Range(1e-3, 1e3), DecidesSamples(), DecidesBestLr()] = 1.0
    """Of the Beta(alpha, alpha) distribution that the share of the first image is drawn from."""
