"""The image holds what pyproject.toml pins, nothing secret, and only what is copied into it."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import torch
import yaml

from tests.k8s.conftest import K8S, ROOT

DOCKERFILE = (K8S / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = dict(re.match(r"([\w.-]+)(?:\[.*\])?==(.+)", pin).groups() for pin in PROJECT["project"]["dependencies"])  # type: ignore[union-attr]


def test_the_images_packages_are_those_of_pyproject_and_no_others() -> None:
    installs = [line.strip() for line in DOCKERFILE.replace("\\\n", " ").splitlines() if "install " in line]
    python = [line for line in installs if "uv pip install" in line]
    assert len(python) == 2
    assert "--requirement pyproject.toml" in python[0]
    assert "--exclude-newer" in python[0]
    assert "--no-deps ." in python[1]
    for name in PINS:  # no version of a package is written a second time
        assert not re.search(rf"\b{re.escape(name)}==", DOCKERFILE), name


def test_the_image_can_compile_what_torch_compile_writes() -> None:
    (packages,) = re.findall(r"apt-get install ([^&]+)", DOCKERFILE.replace("\\\n", " "))
    assert {"gcc", "g++", "libc6-dev"} <= set(packages.split())


def test_the_image_asks_for_the_jpeg_engine_and_finds_the_drivers_and_the_networks_libraries() -> None:
    assert "ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility,video" in DOCKERFILE
    assert re.search(r"^ +LD_LIBRARY_PATH=/usr/local/nvidia/lib64$", DOCKERFILE, re.MULTILINE)
    (packages,) = re.findall(r"apt-get install ([^&]+)", DOCKERFILE.replace("\\\n", " "))
    assert {"rdma-core", "ibverbs-providers"} <= set(packages.split())


def test_ray_is_the_same_in_the_image_the_manifest_and_here() -> None:
    job = yaml.safe_load((K8S / "base" / "rayjob.yaml").read_text())
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == PINS["ray"] == metadata.version("ray")


def test_the_images_tag_is_the_version_of_the_tree() -> None:
    (image,) = yaml.safe_load((K8S / "base" / "kustomization.yaml").read_text())["images"]
    assert image == {"name": "hemodist", "newTag": PROJECT["project"]["version"]}


def test_the_base_has_the_cuda_that_pytorch_and_dali_are_built_for() -> None:
    (version,) = re.findall(r"^ARG CUDA=(\d+)\.", DOCKERFILE, re.MULTILINE)
    assert str(torch.version.cuda).split(".")[0] == version
    assert any(name.startswith(f"nvidia-dali-cuda{version}") for name in PINS)


def test_python_is_one_that_the_tree_accepts() -> None:
    (python,) = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE, re.MULTILINE)
    (lowest,) = re.findall(r">=(\S+)", PROJECT["project"]["requires-python"])
    assert tuple(map(int, python.split("."))) >= tuple(map(int, lowest.split(".")))


def test_uv_is_the_one_that_decides_about_changes() -> None:
    (uv,) = re.findall(r"^ARG UV=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert f"uv=={uv}" in (ROOT / ".ci" / "run").read_text()


def test_the_image_knows_the_revision_of_its_code() -> None:
    page = (K8S / "README.md").read_text()
    for text in (page, DOCKERFILE):
        assert "docker build -f k8s/Dockerfile --build-arg REVISION=$(git rev-parse HEAD)" in text
    assert "ENV HEMODIST_REVISION=${REVISION}" in DOCKERFILE  # what hemodist.reports.wandb_run reads
    assert DOCKERFILE.index("COPY jobs") < DOCKERFILE.index("ARG REVISION=")  # a commit builds no layer before it anew


def test_the_image_runs_as_the_pods_user_and_holds_no_secret() -> None:
    users = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    job = yaml.safe_load((K8S / "base" / "rayjob.yaml").read_text())
    context = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["securityContext"]
    assert users[-1] == (str(context["runAsUser"]), str(context["runAsGroup"]))
    instructions = "\n".join(line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#"))
    assert not re.search(r"api_key|secret|token|password|netrc|kaggle", instructions, re.IGNORECASE)


def test_packages_are_installed_before_the_tree_is_copied() -> None:
    order = [
        DOCKERFILE.index(text) for text in ("COPY pyproject.toml", "--requirement pyproject.toml", "COPY hemodist")
    ]
    assert order == sorted(order)


def test_the_builder_gets_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()}
    assert "*" in lines
    assert let_in == copied
    assert all((ROOT / name).exists() for name in let_in)
    assert Path("README.md").name == PROJECT["project"]["readme"]
