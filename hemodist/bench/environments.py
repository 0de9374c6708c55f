"""Environments of their own for peers whose packages cannot stand beside hemodist's."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def environment(folder: Path, packages: Sequence[str]) -> str | None:
    """Make an environment by uv, unless it is there, and return its Python; None where that fails.

    It needs the package index.

    Args:
        folder: of the environment.
        packages: with their versions.
    """
    python = folder / "bin" / "python"
    if python.exists():
        return str(python)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        subprocess.run(["uv", "venv", "--python", version, str(folder)], check=True, capture_output=True)
        install = ["uv", "pip", "install", "--python", str(python), *packages]
        subprocess.run(install, check=True, capture_output=True)
        return str(python)
    shutil.rmtree(folder, ignore_errors=True)  # half an environment would be taken for a whole one next time
    return None
