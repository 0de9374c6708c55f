"""How pictures are decoded, and what the tensors look like that come out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from hemodist.config.run import Run

Decoder = Literal["auto", "cpu", "mixed"]


@dataclass(frozen=True)
class DecodeSettings:
    """Device, threads and output of the decoder; the same for training and evaluation.

    Attributes:
        image_size: side of the output in pixels.
        device: `cpu`, or a CUDA device that the output is made on.
        threads: DALI's CPU threads; never more than one beyond the CPUs that this process may use.
        prefetch: batches that are prepared ahead.
        decoder: `cpu`; `mixed`, which decodes on the GPU; or `auto`, which is `mixed` on a CUDA device.
        hw_decoder_load: share of a batch that the GPU's JPEG engine decodes, 0 to 1.
        dtype: of the images: float32, float16 or bfloat16.
        channels_last: pixels interleaved in memory (NHWC), as DALI makes them, or planes (NCHW).
    """

    image_size: int
    device: torch.device | str = "cpu"
    threads: int = 4
    prefetch: int = 2
    decoder: Decoder = "auto"
    hw_decoder_load: float = 0.9
    dtype: torch.dtype = torch.float32
    channels_last: bool = True

    @classmethod
    def of_run(
        cls,
        run: Run,
        device: torch.device | str,
        *,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = True,
    ) -> DecodeSettings:
        """What a run's configuration says of decoding, on a device."""
        return cls(
            image_size=run.model.image_size,
            device=device,
            threads=run.data.threads(torch.device(device).type, torch.get_num_threads()),
            prefetch=run.data.prefetch or (2 if torch.device(device).type == "cuda" else 1),
            decoder=run.data.decoder,
            hw_decoder_load=0.0 if run.scaling.deterministic else run.data.hw_decoder_load,
            dtype=dtype,
            channels_last=channels_last,
        )
