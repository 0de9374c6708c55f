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
    make_deterministic,
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
