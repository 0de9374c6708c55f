"""The training loss: binary cross-entropy on six logits, weighted as in the competition, over the known labels.

Loss and score have one definition, the sum of weight x cross-entropy over all known label entries, divided by the sum
of their weights. Over an epoch, or the global batch of a logged step, that quotient is taken of the whole sums.

The gradient of a step needs a divisor before the other ranks and micro-batches are seen. It is the global batch size
times `Prepared.known_share`, the share of the label weights that is known on average in the training split, a constant
of the run. So a known entry counts the same in every batch, the gradients of an epoch's batches average to that of the
epoch's loss, and neither ranks nor micro-batches matter. Divided by what is known in its own batch, an entry would
count the more, the less is known around it. Where every label is known both are the same.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from hemodist.dataset.labels import LOSS_WEIGHTS


def per_sample(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Weighted binary cross-entropy of each sample.

    Args:
        logits: float [b, 6].
        targets: float32 [b, 6], 0 to 1; CutMix's mixed labels; NaN where unknown, which adds nothing.

    Returns:
        float32 [b]: the sum over known labels of weight x cross-entropy, over the sum of all weights.
    """
    known = ~torch.isnan(targets)
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.nan_to_num(0.0), reduction="none")
    weights, total = weights_on(logits.device)
    return (losses * weights * known).sum(dim=1) / total


def known_weight(targets: torch.Tensor) -> torch.Tensor:
    """The share of all labels' weights that is known of each sample, float [b] in [0, 1], for targets [b, 6]."""
    weights, total = weights_on(targets.device)
    return (~torch.isnan(targets) * weights).sum(dim=1) / total


@functools.cache
def weights_on(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The labels' weights and their sum, made once for each device: the host waits for a copy to a GPU."""
    with torch.inference_mode(False):
        weights = torch.tensor(LOSS_WEIGHTS, device=device)
        return weights, weights.sum()
