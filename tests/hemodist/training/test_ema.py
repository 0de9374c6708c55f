from __future__ import annotations

import torch
from torch import nn

from hemodist.training.ema import EMA


def test_the_average_follows_every_tensor_as_its_definition_says() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = EMA(network, 0.7)
    expected = {name: value.double() for name, value in network.state_dict().items()}
    for step in range(5):
        with torch.no_grad():
            network[0].weight += torch.randn(4, 3)
            network[0].bias += torch.randn(4)
        network(torch.randn(8, 3))  # which moves the batch statistics and counts
        average.follow(network, step, torch.tensor(False))
        kept = min(0.7, (1 + step) / (10 + step)) if step else 0.0
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                expected[name] = kept * expected[name] + (1 - kept) * value.double()
            else:
                expected[name] = value.double()
    found = average.module.state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert int(average.n_averaged) == 5
