from __future__ import annotations

import fnmatch
import itertools
from dataclasses import replace

import pytest
import timm.optim
import torch
import torchvision
from torch import nn

from hemodist.config.recipes import RECIPES
from hemodist.config.training import ModelConfig, OptimConfig
from hemodist.models.network import untrained_network
from hemodist.training.optimizer import Rates, begin_momentum, build, is_decayed, rates_at, set_rates


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_the_peak_is_reached_at_the_end_of_the_warm_up_and_never_exceeded(schedule):
    config = OptimConfig(lr=0.3, schedule=schedule, warmup_steps=20, final_lr_fraction=0.01)
    rates = [rates_at(step, 200, config).lr for step in range(200)]
    assert rates[19] == pytest.approx(0.3)
    assert max(rates) <= 0.3 + 1e-12
    assert all(a < b for a, b in itertools.pairwise(rates[:20]))
    assert rates[-1] == pytest.approx(0.3 if schedule == "constant" else 0.003)


def of_torch(total: int, share: float, config: OptimConfig) -> list[Rates]:
    """What torch's scheduler makes each step with."""
    optimizer = build(nn.Linear(1, 1), config)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=config.peak,
        total_steps=total,
        pct_start=share,
        final_div_factor=1 / (25 * config.final_lr_fraction),
    )
    found = []
    for step in range(total):
        (group,) = {(g["lr"], g["momentum"] if "momentum" in g else g["betas"][0]) for g in optimizer.param_groups}
        found.append(Rates(*group))
        optimizer.step()
        if step < total - 1:
            scheduler.step()
    return found


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize(
    ("total", "warmup", "share"),
    [(100, None, 0.25), (37, None, 0.25), (7, None, 0.25), (3, None, 0.25), (2, None, 0.25), (200, 60, 0.3),
     (60, 2, 2 / 60), (41, 0, 0.0)],
)  # fmt: skip
def test_one_cycle_is_torchs_step_for_step_in_learning_rate_and_momentum(name, total, warmup, share):
    config = OptimConfig(name=name, lr=0.02, warmup_steps=warmup)
    ours = [rates_at(step, total, config) for step in range(total)]
    theirs = of_torch(total, share, config)
    assert [r.lr for r in ours] == pytest.approx([r.lr for r in theirs], rel=1e-9, abs=1e-15)
    assert [r.momentum for r in ours] == pytest.approx([r.momentum for r in theirs], rel=1e-12)


def test_one_cycle_is_the_one_worked_out_by_hand():
    """Nine steps, the peak at step 4: half a cosine passes its middle at step 2 and, on the way down, at step 6."""
    config = OptimConfig(lr=1.0, warmup_steps=5, final_lr_fraction=0.0)
    found = [rates_at(step, 9, config) for step in (0, 2, 4, 6, 8)]
    assert [r.lr for r in found] == pytest.approx([0.04, 0.52, 1.0, 0.5, 0.0])
    assert [r.momentum for r in found] == pytest.approx([0.95, 0.90, 0.85, 0.90, 0.95])


@pytest.mark.parametrize(
    "config",
    [OptimConfig(momentum=0.8), OptimConfig(momentum=0.8, schedule="cosine"), OptimConfig(momentum=0.8, name="sgd")],
)
def test_a_momentum_that_is_given_holds_in_all_steps(config):
    assert {rates_at(step, 50, config).momentum for step in range(50)} == {0.8}


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_other_schedules_than_one_cycle_keep_the_momentum(schedule):
    assert {rates_at(step, 50, OptimConfig(schedule=schedule)).momentum for step in range(50)} == {0.9}


@pytest.mark.parametrize("warmup", [None, 0, 1])
@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
@pytest.mark.parametrize("total", [2, 3, 4, 5, 11])
def test_every_step_of_a_short_run_has_a_learning_rate_and_a_momentum(total, schedule, warmup):
    config = OptimConfig(lr=0.1, schedule=schedule, warmup_steps=warmup)
    for step in range(total):
        rates = rates_at(step, total, config)
        assert 0 < rates.lr <= 0.1 + 1e-12
        assert 0.85 <= rates.momentum <= 0.95 + 1e-12
    assert 0 < rates_at(0, 1, replace(config, warmup_steps=None)).lr <= 0.1


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_rates_of_a_step_are_those_of_all_groups_and_the_second_beta_stays(name):
    optimizer = build(nn.Linear(4, 1), OptimConfig(name=name))
    set_rates(optimizer, Rates(0.03, 0.88))
    for group in optimizer.param_groups:
        assert group["lr"] == 0.03
        if name == "sgd":
            assert (group["momentum"], group["nesterov"]) == (0.88, True)
        else:
            assert group["betas"] == (0.88, 0.999)


FAMILIES = {
    "resnet18": set(),
    "densenet121": set(),
    "alexnet": set(),
    "efficientnet_b0": set(),
    "convnext_tiny": {"layer_scale"},
    "swin_t": {"relative_position_bias_table"},
    "swin_v2_t": {"logit_scale", "cpb_mlp"},
    "maxvit_t": {"relative_position_bias_table"},
    "vit_b_16": {"class_token", "pos_embedding"},
}
"""What of a network is neither vector nor decayed."""


def meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return untrained_network(ModelConfig(name=name))


def test_the_recipes_networks_are_of_the_families_that_are_tested():
    families = {name.rstrip("0123456789").partition("_")[0] for name in FAMILIES}
    assert {recipe().model.name.rstrip("0123456789").partition("_")[0] for recipe in RECIPES} <= families


@pytest.mark.parametrize("name", FAMILIES)
def test_the_groups_of_a_network_are_timms(name):
    network = meta(name)
    ours, config = build(network, OptimConfig(weight_decay=0.1)).param_groups, FAMILIES[name]
    plain, decayed = timm.optim.param_groups_weight_decay(
        network, 0.1, no_weight_decay_list=[f"*{part}*" for part in config]
    )
    for found, expected in zip(ours, (decayed, plain), strict=True):
        assert found["weight_decay"] == expected["weight_decay"]
        assert [id(p) for p in found["params"]] == [id(p) for p in expected["params"]]
    names = [n for n, p in network.named_parameters() if p.ndim > 1 and not is_decayed(n, p)]
    assert {part for part in config if fnmatch.filter(names, f"*{part}*")} == config  # none is there for nothing


BY_HAND = {
    "resnet18": {"bn1.weight": False, "layer1.0.conv1.weight": True, "fc.weight": True, "fc.bias": False},
    "densenet121": {"features.conv0.weight": True, "features.norm5.weight": False, "classifier.bias": False},
    "alexnet": {"features.0.weight": True, "features.0.bias": False, "classifier.6.weight": True},
    "efficientnet_b0": {
        "features.1.0.block.0.0.weight": True,  # a depthwise convolution
        "features.1.0.block.1.fc1.weight": True,  # squeeze and excitation
        "features.1.0.block.1.fc1.bias": False,
        "features.1.0.block.0.1.weight": False,  # batch norm
    },
    "convnext_tiny": {
        "features.1.0.layer_scale": False,
        "features.1.0.block.0.weight": True,
        "features.1.0.block.2.weight": False,  # layer norm
        "features.1.0.block.3.weight": True,
        "classifier.2.bias": False,
    },
    "swin_t": {
        "features.1.0.attn.relative_position_bias_table": False,
        "features.1.0.attn.qkv.weight": True,
        "features.1.0.norm1.weight": False,
        "features.2.reduction.weight": True,
    },
    "swin_v2_t": {
        "features.1.0.attn.logit_scale": False,
        "features.1.0.attn.cpb_mlp.0.weight": False,
        "features.1.0.attn.cpb_mlp.2.weight": False,
        "features.1.0.attn.qkv.weight": True,
    },
    "vit_b_16": {
        "class_token": False,
        "encoder.pos_embedding": False,
        "conv_proj.weight": True,
        "encoder.layers.encoder_layer_0.self_attention.in_proj_weight": True,
        "encoder.layers.encoder_layer_0.self_attention.in_proj_bias": False,
        "encoder.layers.encoder_layer_0.ln_1.weight": False,
        "heads.head.weight": True,
    },
}


@pytest.mark.parametrize("name", BY_HAND)
def test_what_decays_and_what_does_not_is_as_listed_by_hand(name):
    parameters = dict(meta(name).named_parameters())
    assert {part: is_decayed(part, parameters[part]) for part in BY_HAND[name]} == BY_HAND[name]


def test_all_of_torchvisions_parameters_with_a_name_of_their_own_are_known():
    """A network that comes with a new kind of table or token must be looked at."""
    with torch.device("meta"):
        networks = [torchvision.models.get_model(name) for name in (*FAMILIES, "mnasnet0_5", "shufflenet_v2_x0_5")]
    named = {name.rpartition(".")[2] for network in networks for name, p in network.named_parameters() if p.ndim > 1}
    tables = {"layer_scale", "relative_position_bias_table", "logit_scale", "class_token", "pos_embedding"}
    assert named == {"weight", "in_proj_weight"} | tables


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_each_parameter_is_in_one_group_and_both_optimizers_go_downhill(name):
    layer = nn.Linear(4, 1)
    optimizer = build(layer, OptimConfig(name=name, lr=0.05))
    begin_momentum(optimizer)
    assert [p.ndim for group in optimizer.param_groups for p in group["params"]] == [2, 1]
    losses = []
    for step in range(50):
        set_rates(optimizer, rates_at(step, 50, OptimConfig(name=name, lr=0.05)))
        loss = (layer(torch.ones(1, 4)) - 3).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
