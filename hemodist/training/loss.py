"""The training loss: binary cross-entropy on six logits, weighted as in the competition."""

from __future__ import annotations

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
    weights = torch.tensor(LOSS_WEIGHTS, device=logits.device)
    return (losses * weights * known).sum(dim=1) / weights.sum()
