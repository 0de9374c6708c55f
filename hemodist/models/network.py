"""Classification networks of torchvision with six logits."""

from __future__ import annotations

from typing import Any, cast

import torch
import torchvision
from torch import nn

from hemodist.config.training import ModelConfig
from hemodist.dataset.labels import LABELS
from hemodist.errors import ConfigError
from hemodist.storage.store import Store


def build_network(config: ModelConfig) -> nn.Module:
    """Build a network of random weights that maps float [b, 3, h, w] to logits [b, 6]; channels last.

    Args:
        config: name, activation and channels; `check_model` must accept it. `pretrained.load_pretrained` loads weights.

    Raises:
        ConfigError: the network has no linear head or no ReLU to replace.
    """
    return untrained_network(config).to(memory_format=torch.channels_last)


def untrained_network(config: ModelConfig) -> nn.Module:
    """The network with its new head and torchvision's random weights; nothing is read or downloaded."""
    extra = {}
    if config.name in {"googlenet", "inception_v3"}:
        # Without their auxiliary heads, which give outputs of another form while training. ImageNet's weights expect
        # three channels scaled once more; without weights it does no harm, and a checkpoint is rebuilt the same way.
        extra = {"init_weights": True, "aux_logits": False, "transform_input": config.channels == 3}
    network: nn.Module = torchvision.models.get_model(config.name, weights=None, **extra)
    _replace_head(network, config.name)
    if config.channels == 1:
        _narrow_stem(network)
    if config.activation == "silu" and not replace_relu(network):
        raise ConfigError(f"model.activation silu: {config.name} has no ReLU module to replace; use relu")
    return network


def torchvision_weights(config: ModelConfig) -> Any:
    """The member of torchvision's enum that `config.weights` names, or None where it must be a file."""
    offered = torchvision.models.get_model_weights(config.name)
    return offered.DEFAULT if config.weights == "imagenet" else offered.__members__.get(config.weights)


def check_model(config: ModelConfig) -> None:
    """Check that a network can be built and takes images of the wanted size, without memory for its weights.

    Raises:
        ConfigError: the name is unknown, the weights are no file, or the network cannot take such images.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if config.name not in names:
        raise ConfigError(f"model.name {config.name!r} is no classification network of torchvision; use one of {names}")
    if config.weights != "none" and torchvision_weights(config) is None and not _is_file(config.weights):
        names = list(torchvision.models.get_model_weights(config.name).__members__)
        raise ConfigError(
            f"model.weights {config.weights!r} is no file; use none, imagenet, one of {names}, "
            "or the path or URI of a state_dict"
        )
    size = config.image_size
    with torch.device("meta"):
        model = untrained_network(config)
        try:
            shape = tuple(model(torch.zeros(2, 3, size, size)).shape)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{config.name} cannot take images of {size} x {size} pixels ({error}); use another model.image_size, "
                "224 and more suit most networks"
            ) from error
    if shape != (2, len(LABELS)):
        raise ConfigError(
            f"{config.name} gives an output of shape {shape}, not (2, {len(LABELS)}); use another network"
        )


def weights_file(weights: str) -> tuple[Store, str]:
    """The folder of a file of weights, and its name there."""
    folder, _, name = weights.rpartition("/")
    return Store.open(folder or ("/" if weights.startswith("/") else ".")), name


def _is_file(weights: str) -> bool:
    store, name = weights_file(weights)
    return bool(name) and store.size(name) is not None


def has_batch_norm(config: ModelConfig) -> bool:
    """Whether the network normalises by statistics of the micro-batch while it trains; no memory is spent on it."""
    with torch.device("meta"):
        network = untrained_network(config)
    return any(
        isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm))
        for module in network.modules()
    )


def last_linear(model: nn.Module) -> str | None:
    """The dotted name of the last linear layer, or None."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else None


def replace_relu(model: nn.Module) -> int:
    """Replace every ReLU module by SiLU, in place (Elfwing et al., 2018); returns how many there were.

    A ReLU that a network calls as a function stays, as DenseNet's last one does.
    """
    replaced = 0
    for name, child in model.named_children():
        if isinstance(child, nn.ReLU):
            setattr(model, name, nn.SiLU(inplace=child.inplace))
            replaced += 1
        else:
            replaced += replace_relu(child)
    return replaced


class MatrixPool(nn.Module):
    """Adaptive average pooling as two small matrix products, whose gradients on a GPU are the same in every run.

    The backward pass of PyTorch's own adds up in whatever order the threads arrive.
    """

    def __init__(self, height: int, width: int) -> None:
        """Pool to `height` x `width`."""
        super().__init__()
        self.height, self.width = height, width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map [b, c, h, w] to [b, c, height, width]."""
        rows = _cell_means(self.height, features.shape[-2]).to(features)
        columns = _cell_means(self.width, features.shape[-1]).to(features)
        return rows @ features @ columns.T


def _cell_means(cells: int, pixels: int) -> torch.Tensor:
    """Row i of float [cells, pixels] averages pixels floor(i * pixels / cells) to ceil((i + 1) * pixels / cells)."""
    matrix = torch.zeros(cells, pixels)
    for i in range(cells):
        start, stop = i * pixels // cells, -(-(i + 1) * pixels // cells)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def make_deterministic(model: nn.Module) -> int:
    """Replace, in place, layers without a deterministic backward pass on a GPU (AlexNet's and VGG's pooling).

    Returns:
        How many were replaced.
    """
    replaced = 0
    for name, child in model.named_children():
        # To 1 x 1 it is a plain mean, which is deterministic.
        if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
            size = child.output_size
            setattr(model, name, MatrixPool(*cast("tuple[int, int]", (size, size) if isinstance(size, int) else size)))
            replaced += 1
        else:
            replaced += make_deterministic(child)
    return replaced


def has_dropout(model: nn.Module) -> bool:
    """True where the network draws random numbers while training."""
    kinds = (nn.Dropout, nn.Dropout2d, torchvision.ops.StochasticDepth)
    return any(isinstance(module, kinds) for module in model.modules())


def _replace_head(model: nn.Module, name: str) -> None:
    if name.startswith("squeezenet"):  # its head is a 1x1 convolution
        classifier = model.get_submodule("classifier")
        classifier.register_module("1", nn.Conv2d(512, len(LABELS), kernel_size=1))
        classifier.register_module("2", nn.Identity())  # a ReLU, after which no probability is below one half
        return
    head = last_linear(model)
    if head is None:
        raise ConfigError(f"model.name {name!r} has no linear head to replace; use another network")
    parent, _, leaf = head.rpartition(".")
    features = model.get_submodule(head).get_parameter("weight").shape[1]
    setattr(model.get_submodule(parent), leaf, nn.Linear(features, len(LABELS)))


class FirstChannel(nn.Conv2d):
    """A convolution of the first channel of its input, whatever number of channels that has."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map [b, c, h, w] to [b, filters, h', w']."""
        return super().forward(images[:, :1])


def _narrow_stem(network: nn.Module) -> None:
    """Replace the first convolution by one of a single channel, under the same name."""
    name, old = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    parent, _, leaf = name.rpartition(".")
    shape: dict[str, Any] = {kept: getattr(old, kept) for kept in ("kernel_size", "stride", "padding", "dilation")}
    stem = FirstChannel(1, old.out_channels, **shape, bias=old.bias is not None)
    setattr(network.get_submodule(parent), leaf, stem)
