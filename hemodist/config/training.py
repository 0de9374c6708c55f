"""What is trained: the network, optimizer and schedule, and which epoch is the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from hemodist.config.fields import MANY, DecidesBestLr, DecidesResult, DecidesSamples, Often, Range
from hemodist.errors import ConfigError


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: Annotated[str, DecidesResult(), DecidesBestLr(), Often()] = "resnet18"
    """A classification network of torchvision."""

    activation: Annotated[Literal["relu", "silu"], DecidesResult(), DecidesBestLr()] = "relu"
    """Keep torchvision's ReLU, or replace every one by SiLU."""

    weights: Annotated[str, DecidesBestLr()] = "none"
    """What training starts from: `none` (random), downloaded weights, or the path or URI of a state_dict.
    Downloaded are `imagenet` (torchvision's newest) and names of torchvision's enum such as IMAGENET1K_V1."""

    image_size: Annotated[int, Range(32, 2048), DecidesSamples(), DecidesBestLr(), Often()] = 256
    """Side of the network's input in pixels."""

    channels: Annotated[Literal[1, 3], DecidesResult(), DecidesBestLr()] = 3
    """3 for all three windows, 1 for the first window only."""

    sync_batch_norm: Annotated[bool, DecidesResult()] = False
    """Batch statistics over all ranks, a micro-batch of each; on GPUs."""

    ema_decay: Annotated[float, Range(0, 0.999999), DecidesResult()] = 0.0
    """Decay a step of the moving average (EMA) of the weights; 0 for none."""

    compile: bool = False
    """Use torch.compile."""

    compile_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = "default"
    """What torch.compile may spend: reduce-overhead records CUDA graphs, max-autotune tries kernels for minutes."""


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and schedule."""

    name: Annotated[Literal["adamw", "sgd"], DecidesResult(), DecidesBestLr()] = "adamw"
    """AdamW or SGD."""

    lr: Annotated[float | Literal["found"], Range(1e-12, 100), DecidesResult(), Often()] = 1e-3
    """The peak learning rate, reached after `warmup_steps`.
    A recipe's follows `batch.global_batch_size` where a flag changes that only: sgd linearly, adamw by the square root.
    `found` takes what `jobs/find_lr.py` has found for this run."""

    weight_decay: Annotated[float, Range(0, 10), DecidesResult(), DecidesBestLr()] = 0.01
    """Decoupled for AdamW; only of matrices and filters, as in timm.
    Not of norms, biases, layer scales, position bias tables, class tokens and positions."""

    momentum: Annotated[float | None, Range(0, 0.9999), DecidesResult(), DecidesBestLr()] = None
    """Of SGD, or AdamW's beta1, the same in all steps.
    None for 0.9; with one_cycle it falls from 0.95 to 0.85 at the peak and rises again, as in fast.ai."""

    schedule: Annotated[Literal["one_cycle", "cosine", "constant"], DecidesResult()] = "one_cycle"
    """Shape of the learning rate after warm-up; one_cycle is torch's OneCycleLR."""

    warmup_steps: Annotated[int | None, Range(0, MANY), DecidesResult()] = None
    """Steps of the linear warm-up (cosine for one_cycle) to `lr`.
    None for a tenth of all steps (one_cycle: a quarter, as fast.ai does)."""

    final_lr_fraction: Annotated[float, Range(0, 1), DecidesResult()] = 1e-5
    """Learning rate at the last step, as a share of `lr`; by default fast.ai's."""

    clip_norm: Annotated[float, Range(0, 1e6), DecidesResult(), DecidesBestLr()] = 0.0
    """Largest gradient norm; 0 for no clipping."""

    epochs: Annotated[int, Range(1, 100_000), DecidesResult(), Often()] = 4
    """Passes over the training split."""

    max_nonfinite: Annotated[int, Range(1, MANY), DecidesResult()] = 5
    """Steps in a row with a non-finite loss after which the run stops."""

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
    """Which epoch is the best, and when the run ends before its last one."""

    score: Annotated[Literal["weighted_log_loss", "auc_any", "accuracy_multi"], DecidesResult()] = "weighted_log_loss"
    """What decides, on the validation split; of the averaged weights where there are any."""

    patience: Annotated[int, Range(0, MANY), DecidesResult()] = 0
    """Epochs in a row without a better score after which the run ends; 0 for never."""
