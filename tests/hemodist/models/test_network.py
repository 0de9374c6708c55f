from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from hemodist.config.training import ModelConfig
from hemodist.errors import ConfigError
from hemodist.models.network import (
    MatrixPool,
    build_network,
    check_model,
    has_dropout,
    last_linear,
    load_pretrained,
    make_deterministic,
    untrained_network,
)


@pytest.mark.parametrize(
    "name", ["resnet18", "alexnet", "resnet34", "densenet121", "mobilenet_v3_small", "squeezenet1_1", "vit_b_32"]
)
def test_any_classification_network_gets_six_logits(name):
    size = 224 if name.startswith("vit") else 64
    model = build_network(ModelConfig(name=name)).eval()
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 6)


@pytest.mark.parametrize("name", ["resnet18", "alexnet", "densenet121"])
def test_the_body_agrees_with_torchvisions_own_network(name):
    ours = build_network(ModelConfig(name=name)).eval()
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
    model = build_network(ModelConfig(name="resnet34", activation="silu"))
    kinds = [type(module) for module in model.modules()]
    assert nn.ReLU not in kinds
    assert kinds.count(nn.SiLU) == 17


def test_dropout_is_noticed():
    assert has_dropout(build_network(ModelConfig(name="alexnet")))
    assert not has_dropout(build_network(ModelConfig(name="resnet18")))


def test_local_weights_are_loaded_but_for_the_head(tmp_path):
    donor = torchvision.models.resnet18(weights=None)
    torch.save(donor.state_dict(), tmp_path / "w.pt")
    model = build_network(ModelConfig(weights=str(tmp_path / "w.pt")))
    assert torch.equal(model.conv1.weight, donor.conv1.weight)
    assert model.fc.weight.shape == (6, 512)


def check_and_build(config: ModelConfig) -> None:
    """As the driver does, and then a worker."""
    check_model(config)
    build_network(config)


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
        check_model(config)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "densenet161", "efficientnet_b0", "convnext_tiny"])
def test_checking_a_network_that_can_train_spends_no_memory(name):
    check_model(ModelConfig(name=name, image_size=299 if name == "inception_v3" else 256))


def test_weights_that_would_execute_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"x": Evil()}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="cannot be read"):
        build_network(ModelConfig(weights=str(tmp_path / "w.pt")))


def test_a_network_of_one_channel_reads_the_first_window_and_takes_three_channel_weights(tmp_path):
    donor = torchvision.models.resnet18(weights=None).eval()
    torch.save(donor.state_dict(), tmp_path / "w.pt")
    model = build_network(ModelConfig(channels=1, weights=str(tmp_path / "w.pt"))).eval()
    assert model.conv1.weight.shape == (64, 1, 7, 7)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images), model(images[:, :1]))
    grey = images[:, :1].expand(-1, 3, -1, -1)
    assert torch.allclose(model.conv1(grey), donor.conv1(grey), atol=1e-4)
    check_model(ModelConfig(channels=1, name="densenet121"))


def test_pretrained_weights_are_read_when_asked_for_and_not_before(tmp_path, monkeypatch):
    asked = []
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    donor = torchvision.models.resnet18(weights=None).state_dict()
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **options: asked.append(self) or donor)
    config = ModelConfig(weights="IMAGENET1K_V1")
    check_model(config)
    network = untrained_network(config)
    assert not asked
    load_pretrained(network, config)
    assert asked == [weights]
    assert torch.equal(network.conv1.weight, donor["conv1.weight"])


def test_weights_that_cannot_be_downloaded_say_so(monkeypatch):
    def failing(self, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", failing)
    with pytest.raises(ConfigError, match="could not download the weights IMAGENET1K_V1 of resnet18"):
        build_network(ModelConfig(weights="imagenet"))


def test_a_checkpoint_of_hemodist_can_be_the_start_of_another_run(tmp_path):
    donor = build_network(ModelConfig()).state_dict()
    torch.save({"scored": donor, "run": {}}, tmp_path / "step.pt")
    assert torch.equal(
        build_network(ModelConfig(weights=str(tmp_path / "step.pt"))).conv1.weight, donor["conv1.weight"]
    )


@pytest.mark.parametrize(("size", "cells"), [(7, (6, 6)), (8, (7, 7)), (3, (6, 6)), (12, (5, 3))])
def test_pooling_by_matrices_is_adaptive_average_pooling(size, cells):
    features = torch.randn(2, 5, size, size + 2, dtype=torch.float64)
    expected = nn.functional.adaptive_avg_pool2d(features, cells)
    assert torch.allclose(MatrixPool(*cells)(features), expected, atol=1e-6)


def test_what_has_no_deterministic_gradient_on_a_gpu_is_replaced():
    model = build_network(ModelConfig(name="alexnet")).eval()
    images = torch.randn(1, 3, 96, 96)
    before = model(images)
    assert make_deterministic(model) == 1
    assert torch.allclose(model(images), before, atol=1e-5)
    assert make_deterministic(build_network(ModelConfig(name="resnet18"))) == 0


@pytest.mark.parametrize("name", ["resnet18", "alexnet", "densenet121", "squeezenet1_0", "mobilenet_v2"])
def test_a_logit_can_be_of_either_sign(name):
    model = build_network(ModelConfig(name=name))
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    logits = model.eval()(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    logits.sum().backward()
    optimizer.step()
    last = list(before)[-1]  # the bias of the head
    assert (dict(model.named_parameters())[last] < before[last]).all()  # every logit can be pushed down
