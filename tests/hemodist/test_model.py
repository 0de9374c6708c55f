from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from hemodist.config import ModelConfig
from hemodist.errors import ConfigError
from hemodist.model import build, check, has_dropout, last_linear


@pytest.mark.parametrize(
    "name", ["resnet18", "alexnet", "resnet34", "densenet121", "mobilenet_v3_small", "squeezenet1_1", "vit_b_32"]
)
def test_any_classification_network_gets_six_logits(name):
    size = 224 if name.startswith("vit") else 64
    model = build(ModelConfig(name=name)).eval()
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 6)


@pytest.mark.parametrize("name", ["resnet18", "alexnet", "densenet121"])
def test_the_body_agrees_with_torchvisions_own_network(name):
    ours = build(ModelConfig(name=name)).eval()
    theirs = torchvision.models.get_model(name, weights=None).eval()
    head = last_linear(theirs)
    theirs.load_state_dict(
        {k: theirs.state_dict()[k] if k.startswith(head) else v for k, v in ours.state_dict().items()}
    )
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    seen = []
    for model in (ours, theirs):
        model.get_submodule(head).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        model(images)
    assert torch.allclose(seen[0], seen[1], atol=1e-5)


def test_silu_replaces_every_relu():
    model = build(ModelConfig(name="resnet34", activation="silu"))
    kinds = [type(module) for module in model.modules()]
    assert nn.ReLU not in kinds
    assert kinds.count(nn.SiLU) == 17


def test_dropout_is_noticed():
    assert has_dropout(build(ModelConfig(name="alexnet")))
    assert not has_dropout(build(ModelConfig(name="resnet18")))


def test_local_weights_are_loaded_but_for_the_head(tmp_path):
    donor = torchvision.models.resnet18(weights=None)
    torch.save(donor.state_dict(), tmp_path / "w.pt")
    model = build(ModelConfig(weights=str(tmp_path / "w.pt")))
    assert torch.equal(model.conv1.weight, donor.conv1.weight)
    assert model.fc.weight.shape == (6, 512)


def check_and_build(config: ModelConfig) -> None:
    """As the driver does, and then a worker."""
    check(config)
    build(config)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [("resnet19", "none", "use one of"), ("resnet18", "missing.pt", "is no file"), ("resnet18", "w.pt", "missing")],
)
def test_what_cannot_be_built_says_why(tmp_path, monkeypatch, name, weights, message):
    monkeypatch.chdir(tmp_path)
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), "w.pt")
    config = ModelConfig(name=name, weights=weights)
    with pytest.raises(ConfigError, match=message):
        check_and_build(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig(name="alexnet", image_size=32), "cannot take images of 32 x 32"),
        (ModelConfig(name="vit_b_32", image_size=256), "cannot take images of 256 x 256"),
        (ModelConfig(name="googlenet", activation="silu"), "has no ReLU module"),
    ],
)
def test_a_network_that_cannot_train_is_refused_before_it_is_built(config, message):
    with pytest.raises(ConfigError, match=message):
        check(config)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "densenet161", "efficientnet_b0", "convnext_tiny"])
def test_checking_a_network_that_can_train_spends_no_memory(name):
    check(ModelConfig(name=name, image_size=299 if name == "inception_v3" else 256))


def test_weights_that_would_execute_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"x": Evil()}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="cannot be read"):
        build(ModelConfig(weights=str(tmp_path / "w.pt")))
