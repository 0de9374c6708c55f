"""Which code and which libraries a result was made with."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sysconfig
from importlib import metadata
from pathlib import Path

import torch


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a result depends on, the device, and the code's git revision."""
    names = ("hemodist", "torch", "torchvision", "nvidia-dali-cuda130", "ray", "numpy", "wandb")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    known = {"python": platform.python_version(), "platform": platform.platform(), "device": device}
    return known | {"git revision": revision()} | {name: metadata.version(name) for name in names}


def revision() -> str:
    """The git revision of the code, with `+changed` where files differ from it.

    Where the code is no checkout, as in an image, what HEMODIST_REVISION says; else `unknown`. `+submitted` says that
    the code is not the one that is installed there but came with a job, and may differ.
    """
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answers = [
            subprocess.run(
                ["git", "-C", str(Path(__file__).parent), *command],
                capture_output=True, text=True, check=True, timeout=10,
            ).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]  # fmt: skip
        return answers[0] + ("+changed" if answers[1] else "")
    told = os.environ.get("HEMODIST_REVISION", "unknown")
    submitted = not Path(__file__).is_relative_to(sysconfig.get_paths()["purelib"])
    return told + ("+submitted" if submitted and told != "unknown" else "")
