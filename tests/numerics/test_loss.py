from __future__ import annotations

import numpy as np
import torch

from hemodist.dataset.labels import LOSS_WEIGHTS
from hemodist.metrics.log_loss import weighted_log_loss
from hemodist.metrics.probabilities import probabilities
from hemodist.training.loss import per_sample


def test_the_mean_loss_is_the_competitions_weighted_log_loss():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 6, generator=generator) * 3
    labels = (torch.rand(200, 6, generator=generator) < 0.3).float()
    ours = per_sample(logits, labels).mean().item()
    theirs = weighted_log_loss(probabilities(logits.numpy()), labels.numpy().astype(np.int8))
    assert abs(ours - theirs) < 1e-6


def test_an_unknown_label_adds_nothing_to_loss_or_gradient():
    logits = torch.zeros(2, 6, requires_grad=True)
    targets = torch.ones(2, 6)
    targets[0, 3] = float("nan")
    losses = per_sample(logits, targets)
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert logits.grad[0, 3] == 0
    assert (logits.grad[1] < 0).all()
    assert torch.isclose(losses[1] - losses[0], torch.log(torch.tensor(2.0)) * LOSS_WEIGHTS[3] / sum(LOSS_WEIGHTS))


def test_the_loss_is_computed_in_float32_under_bf16():
    logits = torch.tensor([[100.0, -100.0, 50.0, 0.1, 0.2, 0.3]], dtype=torch.bfloat16)
    assert per_sample(logits, torch.zeros(1, 6)).dtype == torch.float32
