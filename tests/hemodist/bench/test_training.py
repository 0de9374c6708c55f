from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hemodist.bench import lightning_loop
from hemodist.config.operation import ScalingConfig
from hemodist.config.run import Run
from hemodist.config.training import OptimConfig
from hemodist.doctor.utilisation import Utilisation, watched
from hemodist.loading.dali_pipeline import Batch
from hemodist.world import World


def test_lightning_makes_the_very_steps_of_a_bare_loop() -> None:
    reason = lightning_loop.missing()
    if reason is not None:
        pytest.skip(reason)
    run = Run(name="x", optim=OptimConfig(clip_norm=0.0), scaling=ScalingConfig(workers=0))
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.randn(8, 3, 8, 8, generator=generator), torch.ones(8, 6)
    batch = Batch(images, targets, torch.ones(8), np.arange(8), 0)
    networks = []
    for _ in range(2):
        torch.manual_seed(1)
        networks.append(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 6)))
    theirs, bare = networks
    lap = lightning_loop.lap(theirs, torch.optim.SGD(theirs.parameters(), 0.1), run, World.alone(), batch, steps=3)
    assert lap.rate > 0
    assert lap.cpu_ms > 0
    optimizer = torch.optim.SGD(bare.parameters(), 0.1)
    from hemodist.training import loss

    for _ in range(lightning_loop.WARM + 3):
        optimizer.zero_grad()
        loss.per_sample(bare(images), targets).mean().backward()
        optimizer.step()
    for one, other in zip(theirs.parameters(), bare.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_use_of_a_gpu_is_a_mean_without_what_the_gpu_does_not_have() -> None:
    found = Utilisation()
    for line in ("40, 10, [N/A]", "60, 30, [N/A]", ""):
        found.hear(line)
    assert found.facts() == {"gpu_percent": 50, "gpu_memory_percent": 20}
    with watched("cpu") as nothing:
        pass
    assert nothing.facts() == {}
