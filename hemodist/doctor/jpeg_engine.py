"""Whether a GPU's JPEG engine decodes. Without it everything works as well, on the time of the CPU and the network."""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Sequence

from hemodist.doctor.finding import Finding

LIBRARY = "libnvcuvid.so.1"
"""Part of the driver. nvJPEG opens it to reach the engine, and decodes without it where it is not there."""


def library_is_there() -> bool:
    """Whether this process can open the library."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


def finding(node: str, device: str, *, library: bool, percent: Sequence[float]) -> Finding:
    """What the measurements mean.

    Args:
        node: how the node is called in the findings.
        device: which GPU.
        library: whether `LIBRARY` could be opened.
        percent: of the time in which the engine was busy while it could decode, as `nvidia-smi` says; empty where the
            GPU has none, or nothing could be asked.
    """
    if not library:
        remedy = f"the container lacks {LIBRARY}: set NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
        return Finding("JPEG engine", node, "to do", f"{device}: not reached, decoding takes the CPU", remedy)
    if not percent:
        remedy = (
            "this GPU has no JPEG engine, or nvidia-smi is not there to ask: decoding takes the CPU and the GPU's cores"
        )
        return Finding("JPEG engine", node, "not there", f"{device}: none that nvidia-smi knows of", remedy)
    found = f"{device}: busy {statistics.mean(percent):.0f} % of the time, at most {max(percent):.0f} %, while decoding"
    if not max(percent):
        remedy = "set DALI_NVIMGCODEC_LOG_LEVEL=4 and run this again: it says why the engine is left out"
        return Finding("JPEG engine", node, "to do", found, remedy)
    return Finding("JPEG engine", node, "pass", found)
