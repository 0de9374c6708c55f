"""Classification networks of torchvision with six logits."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torch import nn

from hemodist.config import ModelConfig
from hemodist.errors import ConfigError
from hemodist.manifest import LABELS


def build(config: ModelConfig) -> nn.Module:
    """Build a network that maps float [b, 3, h, w] to logits [b, 6].

    Args:
        config: name, activation and weights; `check` must accept it.

    Raises:
        ConfigError: the network has no linear head or no ReLU to replace, or the weights cannot be had or do not fit.
    """
    model = _bare(config)
    if config.weights not in {"none", "imagenet"}:
        _load(model, config.weights)
    return model.to(memory_format=torch.channels_last)


def _bare(config: ModelConfig) -> nn.Module:
    """The network with its new head, with torchvision's weights or initialisation."""
    # Without their auxiliary heads, which give outputs of another form while training.
    extra = {"init_weights": True, "aux_logits": False} if config.name in {"googlenet", "inception_v3"} else {}
    model: nn.Module
    if config.weights == "imagenet" and torch.get_default_device().type != "meta":
        try:
            model = torchvision.models.get_model(config.name, weights="DEFAULT")
        except OSError as error:
            raise ConfigError(
                f"torchvision could not download the weights of {config.name} ({error}); "
                "use --model.weights none, or the path of a file that holds them"
            ) from error
        if extra:
            model.aux_logits = False  # type: ignore[assignment]
    else:
        model = torchvision.models.get_model(config.name, weights=None, **extra)
    _replace_head(model, config.name)
    if config.activation == "silu" and not replace_relu(model):
        raise ConfigError(f"model.activation silu: {config.name} has no ReLU module to replace; use relu")
    return model


def check(config: ModelConfig) -> None:
    """Check that a network can be built and takes images of the wanted size; no memory is spent on its weights.

    Raises:
        ConfigError: the name is unknown, the weights are no file, or the network cannot take such images.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if config.name not in names:
        raise ConfigError(f"model.name {config.name!r} is no classification network of torchvision; use one of {names}")
    if config.weights not in {"none", "imagenet"} and not Path(config.weights).is_file():
        raise ConfigError(
            f"model.weights {config.weights!r} is no file; use none, imagenet, or the path of a state_dict"
        )
    size = config.image_size
    with torch.device("meta"):
        model = _bare(config)
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


def has_dropout(model: nn.Module) -> bool:
    """True where the network draws random numbers while training."""
    kinds = (nn.Dropout, nn.Dropout2d, torchvision.ops.StochasticDepth)
    return any(isinstance(module, kinds) for module in model.modules())


def _replace_head(model: nn.Module, name: str) -> None:
    if name.startswith("squeezenet"):  # its head is a 1x1 convolution
        model.get_submodule("classifier").register_module("1", nn.Conv2d(512, len(LABELS), kernel_size=1))
        return
    head = last_linear(model)
    if head is None:
        raise ConfigError(f"model.name {name!r} has no linear head to replace; use another network")
    parent, _, leaf = head.rpartition(".")
    features = model.get_submodule(head).get_parameter("weight").shape[1]
    setattr(model.get_submodule(parent), leaf, nn.Linear(features, len(LABELS)))


def _load(model: nn.Module, path: str) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(f"model.weights {path!r} cannot be read as a state_dict: {error}") from error
    own = model.state_dict()
    head = last_linear(model) or "classifier.1"
    fitting = {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
    wrong = [
        f"{k} {tuple(v.shape)} instead of {tuple(own[k].shape)}"
        for k, v in state.items()
        if k in own and k not in fitting and not k.startswith(head)
    ]
    missing = [k for k in own if k not in state and not k.startswith(head)]
    if wrong or missing:
        raise ConfigError(
            f"model.weights {path!r} does not fit: {len(missing)} tensors missing ({', '.join(missing[:3])}), "
            f"{len(wrong)} of another shape ({', '.join(wrong[:3])}); only the head may differ"
        )
    model.load_state_dict(fitting, strict=False)
