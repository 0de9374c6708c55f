from __future__ import annotations

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from hemodist.training.ema import EMA


def changing() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def change(network: nn.Module) -> None:
    with torch.no_grad():
        network[0].weight += torch.randn(4, 3)
        network[0].bias += torch.randn(4)
    network(torch.randn(8, 3))  # which moves the batch statistics and counts


@pytest.mark.parametrize("decay", [0.7, 0.98])  # reached after 6 updates, and not within these 40
def test_after_each_update_the_average_is_that_of_timms_ema_with_its_warm_up(decay: float) -> None:
    network = changing()
    average, timms = EMA(network, decay), ModelEmaV3(network, decay=decay, use_warmup=True)
    for update in range(1, 41):
        change(network)
        average.follow(network, torch.tensor(False))
        timms.update(network, step=update)  # timm counts from 1
        expected = timms.module.state_dict()
        assert average.module.state_dict().keys() == expected.keys()
        for name, value in average.module.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)
    assert int(average.n_averaged) == 40


def test_the_shares_of_the_first_updates_are_those_worked_out_by_hand() -> None:
    """1, 2^(-2/3) = 0.62996 and 3^(-2/3) = 0.48075, so that of the first weights 0.19215 is left; with 0.4 at least 0.6
    of each is taken."""
    for decay, expected in ((0.999, [1.0, 1.0 - 0.62996, 0.37004 * (1 - 0.48075)]), (0.4, [1.0, 0.37004, 0.148016])):
        network = nn.Linear(1, 1, bias=False)
        average = EMA(network, decay)
        for value, left in zip((1.0, 0.0, 0.0), expected, strict=True):
            nn.init.constant_(network.weight, value)
            average.follow(network, torch.tensor(False))
            assert average.module.weight.item() == pytest.approx(left, abs=1e-5)


def test_the_first_update_that_is_made_is_taken_whole_and_those_skipped_before_do_not_count() -> None:
    network = changing()
    average = EMA(network, 0.99)
    for skipped in (True, True, False):
        change(network)
        average.follow(network, torch.tensor(skipped))
    assert int(average.n_averaged) == 1
    torch.testing.assert_close(average.module.state_dict(), network.state_dict())
