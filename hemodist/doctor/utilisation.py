"""How busy a GPU is while something else is measured, asked of `nvidia-smi`."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

_FIELDS = ("utilization.gpu", "utilization.memory", "utilization.jpeg")
_MILLISECONDS = 100


@dataclass
class Utilisation:
    """Percentages while the `with` block ran, one a tenth of a second; empty where nothing could be asked.

    Attributes:
        gpu: of the time in which a kernel ran.
        memory: of the time in which memory was read or written.
        decoder: of the JPEG engine, where the GPU has one.
    """

    gpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    decoder: list[float] = field(default_factory=list)

    def facts(self) -> dict[str, float]:
        """The means, by name with the unit; without those that nothing is known of."""
        named = {"gpu_percent": self.gpu, "gpu_memory_percent": self.memory, "jpeg_engine_percent": self.decoder}
        return {name: statistics.mean(values) for name, values in named.items() if values}

    def hear(self, line: str) -> None:
        """Take in one line of numbers; a field that the GPU does not have is written as text there."""
        for values, text in zip((self.gpu, self.memory, self.decoder), line.split(","), strict=False):
            with contextlib.suppress(ValueError):
                values.append(float(text))


@contextlib.contextmanager
def watched(device: str) -> Iterator[Utilisation]:
    """Watch a GPU, such as `cuda:1`, or the first, during a block; nothing where the device is no GPU."""
    found = Utilisation()
    if not device.startswith("cuda"):
        yield found
        return
    if shutil.which("nvidia-smi") is None:
        yield found
        return
    uuid = torch.cuda.get_device_properties(torch.device(device)).uuid  # the number here is not the driver's
    command = ["nvidia-smi", f"--id=GPU-{uuid}", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    with subprocess.Popen([*command, f"-lms={_MILLISECONDS}"], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield found
        finally:
            process.terminate()
            lines, _ = process.communicate()
            for line in lines.splitlines():
                found.hear(line)
