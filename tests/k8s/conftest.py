"""Fixtures: the built overlays, and the validator that is not part of the tree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())


@pytest.fixture(scope="session")
def built() -> Callable[[str], str]:
    """The YAML that `kubectl kustomize` makes of an overlay, by its name."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done: dict[str, str] = {}

    def build(name: str) -> str:
        if name not in done:
            command = ["kubectl", "kustomize", str(K8S / "overlays" / name)]
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            assert made.returncode == 0, made.stderr
            done[name] = made.stdout
        return done[name]

    return build


@pytest.fixture(scope="session")
def documents(built: Callable[[str], str]) -> Callable[[str], list[dict[str, Any]]]:
    """The documents of an overlay, by its name."""
    return lambda name: list(yaml.safe_load_all(built(name)))


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, str]], dict[str, list[str]]]:
    """What a strict validator finds wrong in manifests, by their names; each name with at least one document."""
    folder = ROOT.parent / "shared" / "k8s"
    if not (folder / "crds").is_dir():
        pytest.skip(f"no definitions of KubeRay's kinds: {folder} is missing")

    def check(manifests: dict[str, str]) -> dict[str, list[str]]:
        scratch = tmp_path_factory.mktemp("manifests")
        for name, text in manifests.items():
            (scratch / f"{name}.yaml").write_text(text)
        command = [sys.executable, str(folder / "validate.py"), "--crds", str(folder / "crds"), str(scratch)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "objects, " in done.stdout, done.stdout + done.stderr
        found: dict[str, list[str]] = {}
        for line in done.stdout.splitlines():
            if match := re.match(r"(ok|FAIL)\s+(.*)\.yaml#\d+ ", line):
                name = Path(match[2]).name
                found.setdefault(name, [])
            elif line.startswith("      - "):
                found[name].append(line[8:])
        assert found.keys() == manifests.keys()
        assert done.returncode == int(any(found.values()))
        return found

    return check
