"""The configuration of one run: frozen dataclasses, checked before anything is started.

A recipe returns one whole `Run`; the command line overrides fields of it. Every number carries its unit here.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from hemodist.config.shares import check_batch
from hemodist.errors import ConfigError


@dataclass(frozen=True)
class DataConfig:
    """What is read.

    Attributes:
        dataset: path or URI of a finished data set (a folder with manifest.json).
        subset: total number of slices, train and valid together; None for all. 1500 is the original study's.
        selection: all slices, or balanced: every slice with hemorrhage and as many without, the first in shard order.
        folds: number of folds that the groups (patients) are hashed into.
        valid_fold: the fold that validates; the others train.
        test_fold: a fold that neither trains nor validates, for a last score; None for none.
        fold_seed: key of the fold hash.
        cache: node-local folder for shards of a remote data set; local data sets are read in place.
        cache_gb: GB (10^9 bytes) that all copies in `cache` may take together; None for nine tenths of what the disk
            has. The shards that the plan needs last are deleted first.
        on_corrupt: stop at a sample that does not match its checksum, or mask it out, count and log it.
        decode_threads: DALI's CPU threads a worker.
        decoder: mixed decodes JPEG on the GPU, cpu on the CPU; auto is mixed where the worker has a GPU.
        prefetch: batches that DALI prepares ahead; 0 is 2 for a GPU, and 1 where the network is on the CPU: there
            decoding beside it takes its cores away while its other threads wait (3 % of a step on two cores).
    """

    dataset: str = ""
    subset: int | None = None
    selection: Literal["all", "balanced"] = "all"
    folds: int = 5
    valid_fold: int = 0
    test_fold: int | None = None
    fold_seed: int = 0
    cache: str = "~/.cache/hemodist"
    cache_gb: float | None = None
    on_corrupt: Literal["stop", "mask"] = "stop"
    decode_threads: int = 4
    decoder: Literal["auto", "cpu", "mixed"] = "auto"
    prefetch: int = 0

    @property
    def cache_bytes(self) -> int | None:
        """`cache_gb` in bytes."""
        return None if self.cache_gb is None else round(self.cache_gb * 1e9)


@dataclass(frozen=True)
class BatchConfig:
    """How the stream of samples is cut.

    Attributes:
        global_batch_size: samples a step, over all ranks; a multiple of `mix_group`.
        mix_group: consecutive samples that CutMix may mix with each other; a rank reads whole groups.
        accumulate: micro-batches that a rank splits its share into; the gradient is that of the whole share.
        block_shards: shards whose samples are shuffled together.
        eval_batch_size: samples a rank evaluates at once.
        sampling: how often an epoch reads a slice. uniform: once. balanced: each class equally often, where a class is
            a slice's rarest positive subtype, or none. weighted: by `label_weights`. An epoch stays as long as the
            training split; a slice is read its share of it, rounded down or up by a draw for (seed, epoch).
        label_weights: of weighted sampling, whole numbers in the order of the labels; the largest one of a slice's
            positive labels counts, beside 1 for a slice without any.
    """

    global_batch_size: int = 64
    mix_group: int = 8
    accumulate: int = 1
    block_shards: int = 16
    eval_batch_size: int = 64
    sampling: Literal["uniform", "balanced", "weighted"] = "uniform"
    label_weights: tuple[int, int, int, int, int, int] = (1, 1, 1, 1, 1, 1)

    def __post_init__(self) -> None:
        """JSON knows lists only."""
        object.__setattr__(self, "label_weights", tuple(self.label_weights))


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths of the augmentation; all zero (and `min_crop_area` 1) is none.

    Attributes:
        min_crop_area: smallest square crop, as a share of the image's area, 0 to 1.
        flip_horizontal: probability of a left-right flip.
        flip_vertical: probability of an up-down flip.
        transpose: probability of a transposition.
        rotation_degrees: largest rotation either way.
        brightness: largest shift, as a share of the window's width.
        contrast: largest relative change of contrast.
    """

    min_crop_area: float = 1.0
    flip_horizontal: float = 0.0
    flip_vertical: float = 0.0
    transpose: float = 0.0
    rotation_degrees: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0


@dataclass(frozen=True)
class MixConfig:
    """CutMix or mixup.

    Attributes:
        kind: none, cutmix or mixup.
        probability: that a mix group is mixed.
        alpha: of the Beta(alpha, alpha) distribution of the share.
    """

    kind: Literal["none", "cutmix", "mixup"] = "none"
    probability: float = 1.0
    alpha: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        name: a classification network of torchvision.
        activation: keep torchvision's ReLU, or replace every one by SiLU.
        weights: `none`; `imagenet` (torchvision's newest) or a name of its enum such as IMAGENET1K_V1, which are
            downloaded; or the path of a local state_dict.
        image_size: side of the network's input in pixels.
        channels: 3 for all three windows, 1 for the first window only.
        sync_batch_norm: batch statistics over all ranks.
        ema_decay: of the moving average of the weights, per step; 0 for none.
        compile: use torch.compile.
    """

    name: str = "resnet18"
    activation: Literal["relu", "silu"] = "relu"
    weights: str = "none"
    image_size: int = 256
    channels: Literal[1, 3] = 3
    sync_batch_norm: bool = False
    ema_decay: float = 0.0
    compile: bool = False


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and schedule.

    Attributes:
        name: adamw or sgd.
        lr: the peak learning rate, reached after `warmup_steps`; `found` takes what `jobs/find_lr.py` has found for
            this run.
        weight_decay: decoupled for AdamW; not applied to biases and normalisation.
        momentum: of SGD, or AdamW's beta1.
        schedule: shape after warm-up.
        warmup_steps: linear warm-up (cosine for one_cycle) to `lr`; None for a tenth of all steps (one_cycle: a
            quarter, as fast.ai does).
        final_lr_fraction: learning rate at the last step, as a share of `lr`.
        clip_norm: largest gradient norm; 0 for no clipping.
        epochs: passes over the training split.
        max_nonfinite: steps in a row with a non-finite loss after which the run stops.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float | Literal["found"] = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    warmup_steps: int | None = None
    final_lr_fraction: float = 0.001
    clip_norm: float = 0.0
    epochs: int = 4
    max_nonfinite: int = 5

    @property
    def peak(self) -> float:
        """`lr` as a number.

        Raises:
            ConfigError: it still is `found`.
        """
        if self.lr == "found":
            raise ConfigError("optim.lr found was not looked up; run `python jobs/find_lr.py` first, or give a number")
        return self.lr


@dataclass(frozen=True)
class StopConfig:
    """Which epoch is the best, and when the run ends before its last one.

    Attributes:
        score: what decides, on the validation split; of the averaged weights where there are any.
        patience: epochs in a row without a better score after which the run ends; 0 for never.
    """

    score: Literal["weighted_log_loss", "auc_any", "accuracy_multi"] = "weighted_log_loss"
    patience: int = 0


@dataclass(frozen=True)
class ScalingConfig:
    """Where it runs.

    Attributes:
        workers: ranks, one GPU or `cpus_per_worker` CPUs each; 0 runs the loop in the calling process, without Ray.
        min_workers: fewest ranks that the run starts and goes on with while there is no room for `workers`; None is
            `workers`, so that the run waits until there is room for all.
        wait_seconds: seconds that lost workers' places are waited for before the run goes on with fewer.
        grow_seconds: seconds that there must have been room for more workers before a run with fewer than `workers` is
            saved and goes on with them; not under 20, the age of Ray's own count of nodes.
        device: auto takes a GPU a worker where there are any.
        cpus_per_worker: CPUs that a worker reserves.
        max_failures: restarts after lost workers without a new checkpoint in between before the run gives up; nodes
            that leave with notice do not count.
        precision: auto is bf16 autocast on GPUs and fp32 on CPUs.
        deterministic: only deterministic kernels; slower on GPUs.
    """

    workers: int = 2
    min_workers: int | None = None
    wait_seconds: float = 15.0
    grow_seconds: float = 60.0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cpus_per_worker: int = 1
    max_failures: int = 3
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    deterministic: bool = False

    @property
    def fewest(self) -> int:
        """The fewest ranks that the run may have."""
        return max(self.workers if self.min_workers is None else self.min_workers, 1)


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved.

    Attributes:
        every_steps: steps between checkpoints; 0 saves after each epoch only.
        every_minutes: minutes between checkpoints, so what a killed worker costs at most, beside the start of another;
            0 for no clock. Training waits for the copying of the tensors only, 0.1 to 0.3 s of CPU time for 180 to
            680 MB; a thread writes them. The clock is looked at every `tracking.log_every` steps, where the ranks speak
            to each other anyway.
        keep: newest checkpoints that are kept, beside the best.
    """

    every_steps: int = 0
    every_minutes: float = 5.0
    keep: int = 2


@dataclass(frozen=True)
class TrackingConfig:
    """Weights & Biases.

    Attributes:
        mode: auto is online where WANDB_API_KEY is set and offline elsewhere.
        project: W&B project.
        log_every: steps between logged training rows.
        images: validation slices shown with windows, labels and predictions after each epoch; 0 for none.
        artifacts: upload the best checkpoint at the end.
        ledger: write down which samples each committed step has read, below the run's folder `ledger`.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "hemodist"
    log_every: int = 10
    images: int = 8
    artifacts: bool = False
    ledger: bool = False


@dataclass(frozen=True)
class Run:
    """One whole run.

    Attributes:
        name: of the run; the same name and output continue a run that was interrupted.
        output: folder or URI; the run writes below `output/name`. With workers on several machines it must be a URI or
            a folder that they all share, such as NFS.
        seed: of everything that is drawn, 0 to 2**31 - 1.
    """

    name: str
    output: str = "runs"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Run:
        """What `to_dict` wrote.

        Raises:
            ConfigError: it has fields that this version does not know, or lacks a name.
        """
        try:
            defaults = cls(name=values["name"])
            parts: dict[str, Any] = {
                name: type(part)(**values[name]) if dataclasses.is_dataclass(part) else values[name]  # type: ignore[misc]
                for name in values
                for part in [getattr(defaults, name)]
            }
            return cls(**parts)
        except (AttributeError, KeyError, TypeError) as error:
            raise ConfigError(f"the configuration is of another version of hemodist: {error}") from error


def check(run: Run) -> None:
    """Check everything that can be checked without the data set and the machine.

    Raises:
        ConfigError: naming the field, its value and what works.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", run.name):
        raise ConfigError(
            f"name {run.name!r}: use 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"
        )
    if not run.data.dataset:
        raise ConfigError("no data set given; add --data.dataset PATH (made by `python jobs/shard.py`)")
    _check_sizes(run)
    for name, value, low, high in _ranges(run):
        if not low <= value <= high:
            raise ConfigError(f"{name} {value} is out of range; use {low:g} to {high:g}")


def _check_sizes(run: Run) -> None:
    fewest, most = run.scaling.min_workers, run.scaling.workers
    if fewest is not None and not 1 <= fewest <= most:
        raise ConfigError(
            f"scaling.min_workers {fewest} is out of range; use 1 to scaling.workers, {most}, or leave it out"
        )
    if run.mix.kind != "none" and run.batch.mix_group < 2:
        raise ConfigError(
            f"mix.kind {run.mix.kind} needs partners, and batch.mix_group is {run.batch.mix_group}; use 2 or more"
        )
    for world in range(run.scaling.fewest, max(most, 1) + 1):
        check_shares(run.batch, world)


def check_shares(batch: BatchConfig, world: int) -> None:
    """Check that a global batch can be dealt out to `world` ranks, and a share to its micro-batches.

    Raises:
        ConfigError: naming what works.
    """
    check_batch(batch.global_batch_size, batch.mix_group, world)
    groups = batch.global_batch_size // batch.mix_group // world
    if batch.accumulate > groups:
        raise ConfigError(
            f"batch.accumulate {batch.accumulate}, but a worker reads as few as {groups} mix groups a step; "
            f"use batch.accumulate {groups} or less, or a larger global_batch_size"
        )


def _ranges(run: Run) -> list[tuple[str, float, float, float]]:
    many = 2**31 - 1
    return [
        ("seed", run.seed, 0, many),
        ("data.fold_seed", run.data.fold_seed, 0, many),
        ("optim.warmup_steps", run.optim.warmup_steps or 0, 0, many),
        ("data.cache_gb", 1.0 if run.data.cache_gb is None else run.data.cache_gb, 1e-6, 1e9),
        ("batch.label_weights", min(run.batch.label_weights), 0, 1000),
        ("batch.label_weights", max(run.batch.label_weights), 0, 1000),
        ("data.decode_threads", run.data.decode_threads, 1, 256),
        ("data.prefetch", run.data.prefetch, 0, 64),
        ("batch.accumulate", run.batch.accumulate, 1, many),
        ("batch.eval_batch_size", run.batch.eval_batch_size, 1, many),
        ("augment.min_crop_area", run.augment.min_crop_area, 0.01, 1),
        ("augment.flip_horizontal", run.augment.flip_horizontal, 0, 1),
        ("augment.flip_vertical", run.augment.flip_vertical, 0, 1),
        ("augment.transpose", run.augment.transpose, 0, 1),
        ("augment.rotation_degrees", run.augment.rotation_degrees, 0, 180),
        ("augment.brightness", run.augment.brightness, 0, 1),
        ("augment.contrast", run.augment.contrast, 0, 1),
        ("mix.probability", run.mix.probability, 0, 1),
        ("mix.alpha", run.mix.alpha, 1e-3, 1e3),
        ("model.image_size", run.model.image_size, 32, 2048),
        ("model.ema_decay", run.model.ema_decay, 0, 0.999999),
        ("optim.lr", 1e-3 if run.optim.lr == "found" else run.optim.lr, 1e-12, 100),
        ("optim.weight_decay", run.optim.weight_decay, 0, 10),
        ("optim.momentum", run.optim.momentum, 0, 0.9999),
        ("optim.final_lr_fraction", run.optim.final_lr_fraction, 0, 1),
        ("optim.clip_norm", run.optim.clip_norm, 0, 1e6),
        ("optim.epochs", run.optim.epochs, 1, 100_000),
        ("optim.max_nonfinite", run.optim.max_nonfinite, 1, many),
        ("stop.patience", run.stop.patience, 0, many),
        ("scaling.workers", run.scaling.workers, 0, 65_536),
        ("scaling.wait_seconds", run.scaling.wait_seconds, 1, 86_400),
        ("scaling.grow_seconds", run.scaling.grow_seconds, 20, 86_400),
        ("scaling.cpus_per_worker", run.scaling.cpus_per_worker, 1, 1024),
        ("scaling.max_failures", run.scaling.max_failures, 0, many),
        ("checkpoint.every_steps", run.checkpoint.every_steps, 0, many),
        ("checkpoint.every_minutes", run.checkpoint.every_minutes, 0, 1e6),
        ("checkpoint.keep", run.checkpoint.keep, 1, many),
        ("tracking.log_every", run.tracking.log_every, 1, many),
        ("tracking.images", run.tracking.images, 0, 1000),
    ]
