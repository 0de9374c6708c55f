from __future__ import annotations

import numpy as np
import pytest
import torch

from hemodist.dataset.labels import LOSS_WEIGHTS, UNKNOWN
from hemodist.metrics.log_loss import weighted_log_loss
from hemodist.metrics.probabilities import probabilities
from hemodist.plan.label_gaps import known_share
from hemodist.training.loss import known_weight, per_sample


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


def partly_known(n: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and targets of which a third knows all labels, a third `any` only, and a third five at random."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(n, 6, generator=generator) * 2
    targets = (torch.rand(n, 6, generator=generator) < 0.3).float()
    targets[n // 3 : 2 * n // 3, 1:] = torch.nan
    for row in range(2 * n // 3, n):
        targets[row, int(torch.randint(6, (1,), generator=generator))] = torch.nan
    return logits, targets


@pytest.mark.parametrize("known", [6, 1])
def test_loss_and_score_are_one_definition_whatever_is_known(known):
    logits, targets = partly_known()
    targets[:, known:] = torch.nan
    ours = (per_sample(logits, targets).sum() / known_weight(targets).sum()).item()
    labels = targets.nan_to_num(UNKNOWN).numpy().astype(np.int8)
    assert ours == pytest.approx(weighted_log_loss(probabilities(logits.numpy()), labels), abs=1e-6)


def test_the_gradients_of_an_epochs_batches_average_to_that_of_the_epochs_loss():
    logits, targets = partly_known()
    rows = torch.randperm(len(logits), generator=torch.Generator().manual_seed(2))
    share = known_share(targets.nan_to_num(UNKNOWN).numpy().astype(np.int8), None)
    whole = logits.clone().requires_grad_()
    (per_sample(whole, targets).sum() / known_weight(targets).sum()).backward()
    parts = logits.clone().requires_grad_()
    for batch in rows.split(16):  # in which more or less is known
        (per_sample(parts[batch], targets[batch]).sum() / (16 * share) / (len(logits) / 16)).backward()
    assert torch.allclose(parts.grad, whole.grad, atol=1e-8)


def test_where_every_label_is_known_the_weight_is_exactly_one_a_sample():
    assert torch.equal(known_weight(torch.zeros(5, 6)), torch.ones(5))
    assert known_share(np.zeros((7, 6), np.int8), np.arange(1, 8)) == 1.0
