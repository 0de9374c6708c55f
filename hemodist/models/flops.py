"""How much of a device's arithmetic a run uses: model FLOPs utilisation (Chowdhery et al., "PaLM", 2022)."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from hemodist.config.training import ModelConfig
from hemodist.models.network import untrained_network

PEAK_BF16_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
}
"""Dense bf16 tensor-core FLOP/s of one device by words of its name, the first that fits.

Source: NVIDIA's data sheets; their figures "with sparsity" are halved.
"""


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 FLOP/s of a device, or None where the table has none.

    >>> peak_flops("NVIDIA H100 80GB HBM3")
    989000000000000.0
    >>> peak_flops("AMD EPYC 7B13") is None
    True
    """
    words = device_name.replace("-", " ").split()
    for name, flops in PEAK_BF16_FLOPS.items():
        if all(part in words for part in name.split()):
            return flops
    return None


def training_flops(config: ModelConfig) -> int:
    """FLOPs of one forward and backward pass over one image; a multiplication and an addition are two.

    The forward pass is counted on the meta device, without memory or arithmetic; the backward pass is twice as much
    (gradients of inputs and of weights), PaLM's own convention. Two images, since batch norm refuses one.
    """
    with torch.device("meta"):
        model = untrained_network(config)
        images = torch.zeros(2, 3, config.image_size, config.image_size)
        with FlopCounterMode(display=False) as counter:
            model(images)
    return 3 * int(counter.get_total_flops()) // 2
