"""The checks of one node: versions, GPUs, compiler, shared memory, decoding and by what, storage, cache, W&B."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import torch

from hemodist.config.recipes import RECIPES
from hemodist.dataset.digest import sha256
from hemodist.doctor import decode, jpeg_engine
from hemodist.doctor.finding import Finding
from hemodist.errors import UserError
from hemodist.models.pretrained import published
from hemodist.storage.store import Store

GIB = 2**30
MIN_SHARED = 1 * GIB
"""Bytes of /dev/shm that Ray's object store and NCCL need; a container gets 64 MiB unless it asks for more."""

MIN_FREE = 40 * GIB
"""Free bytes that the shard cache should have: all of RSNA 2019 at 256 pixels is about 25 GB."""

MIN_RATE = 50e6
"""Bytes/s from the storage below which a node waits for shards: 1,500 samples/s of 34 KB."""


@dataclass(frozen=True)
class Wanted:
    """What to check on a node, and with what.

    Attributes:
        storage: path or URI where data sets and runs lie; the doctor writes a file there and reads it.
        cache: node-local folder of the shard cache.
        megabytes: size of the file that measures the storage.
        gpus: GPUs that a node must have; None where any number is fine.
        works: whether Ray gives the node work. A head without CPUs and GPUs neither computes nor decodes, and the
            manifests in `k8s/` mount no cache there.
    """

    storage: str
    cache: str
    megabytes: int
    gpus: int | None
    works: bool = True


Check = Callable[[Wanted, str], list[Finding]]
"""A check of a node, which is called so in the findings."""


def checks_of(*, works: bool) -> dict[str, Check]:
    """The checks of a node by name; fewer for one that Ray gives no work."""
    everywhere: dict[str, Check] = {
        "versions": lambda wanted, node: versions(node),
        "shared memory": lambda wanted, node: shared_memory(node),
        "storage": lambda wanted, node: storage(node, wanted.storage, wanted.megabytes),
        "W&B": lambda wanted, node: wandb(node),
    }
    of_work: dict[str, Check] = {
        "GPUs": lambda wanted, node: gpus(node, wanted.gpus),
        "compiler": lambda wanted, node: compiler(node),
        "decoding": lambda wanted, node: decoding(node),
        "cache": lambda wanted, node: cache(node, wanted.cache),
        "weights": lambda wanted, node: weights(node),
    }
    if works:
        return everywhere | of_work
    without = Finding("work", "", "not there", "no CPU and no GPU for Ray's tasks", f"unchecked: {', '.join(of_work)}")
    return everywhere | {"work": lambda wanted, node: [replace(without, node=node)]}


def check_node(wanted: Wanted, node: str, name: str) -> list[Finding]:
    """Make one check of this node; one that fails in an unforeseen way is a finding, too.

    Args:
        wanted: what to check.
        node: how the node is called in the findings.
        name: of the check, see `checks_of`.
    """
    try:
        return checks_of(works=wanted.works)[name](wanted, node)
    except Exception as error:  # the other checks still help
        return [Finding(name, node, "to do", f"{type(error).__name__}: {error}", "mend this first")]


def versions(node: str) -> list[Finding]:
    """Whether every package has the version that the installed hemodist pins."""
    wrong = []
    for requirement in metadata.requires("hemodist") or []:
        match = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==([^;\s]+)", requirement)
        if match is None:
            continue
        name, pinned = match.groups()
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = "not installed"
        # A build's own mark, such as +cu130, is no other version.
        if installed.partition("+")[0] != pinned:
            wrong.append(f"{name} {installed} instead of {pinned}")
    about = f"Python {platform.python_version()}, hemodist {metadata.version('hemodist')}, torch {torch.__version__}"
    if wrong:
        remedy = "install what pyproject.toml pins (`uv sync`), or build the image again"
        return [Finding("versions", node, "to do", f"{about}; {', '.join(wrong)}", remedy)]
    return [Finding("versions", node, "pass", f"{about}, all pins met")]


def gpus(node: str, wanted: int | None) -> list[Finding]:
    """Whether PyTorch can use the GPUs of the node, and as many as are wanted."""
    count = torch.cuda.device_count()
    devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
    if count == 0 and (wanted or devices):
        remedy = "check the driver (`nvidia-smi`), CUDA_VISIBLE_DEVICES and the pod's limit nvidia.com/gpu"
        return [Finding("GPUs", node, "to do", f"PyTorch sees none, the system {len(devices)}", remedy)]
    if count == 0:
        return [Finding("GPUs", node, "not there", "none", "runs compute and decode on the CPU here")]
    names = [torch.cuda.get_device_properties(index) for index in range(count)]
    found = ", ".join(f"{each.name} {each.total_memory / GIB:.0f} GiB" for each in names)
    if wanted is not None and count < wanted:
        return [Finding("GPUs", node, "to do", f"{count}: {found}", f"{wanted} are expected; check the pod's limit")]
    return [Finding("GPUs", node, "pass", f"{count}: {found}")]


def compiler(node: str) -> list[Finding]:
    """The C compiler with which Triton builds its launchers when a compiled model first runs on a GPU."""
    if not torch.cuda.device_count():
        return []
    # As triton/runtime/build.py chooses.
    path = shutil.which(os.environ.get("CC") or "gcc") or ("CC" not in os.environ and shutil.which("clang")) or ""
    remedy = "--model.compile fails here: install gcc and libc6-dev, as k8s/Dockerfile does, or set CC"
    if not path:
        return [Finding("compiler", node, "not there", "no gcc, no clang, no CC that runs", remedy)]
    include = f"-I{sysconfig.get_paths()['include']}"
    with tempfile.TemporaryDirectory() as folder:
        command = [path, "-x", "c", "-", "-shared", "-fPIC", include, "-o", f"{folder}/built.so"]
        built = subprocess.run(command, input="#include <Python.h>\n", capture_output=True, text=True, timeout=60)
    if built.returncode:
        return [Finding("compiler", node, "not there", f"{path}: {built.stderr.strip()[:200]}", remedy)]
    return [Finding("compiler", node, "pass", path)]


def shared_memory(node: str, folder: str = "/dev/shm") -> list[Finding]:
    """Whether the shared memory is large enough."""
    if not Path(folder).is_dir():
        return [Finding("shared memory", node, "not there", f"no {folder}", "Ray then uses its temporary folder")]
    size = shutil.disk_usage(folder).total
    found = f"{size / GIB:.2f} GiB"
    if size < MIN_SHARED:
        remedy = "mount a larger one (docker --shm-size, or an emptyDir with medium Memory): at least 1 GiB"
        return [Finding("shared memory", node, "to do", found, remedy)]
    return [Finding("shared memory", node, "pass", found)]


def decoding(node: str) -> list[Finding]:
    """Whether DALI decodes right, and how fast, on the CPU and every GPU as training does, and by which part of it."""
    found = []
    for device in ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]:
        made = decode.measure(device)
        text = (
            f"{device}: {made.images_per_s:,.0f} images/s of {decode.SIZE} x {decode.SIZE}, {decode.IMAGES:,} of them, "
        )
        text += f"at most {made.most:.0f} and on average {made.mean:.2f} of 255 from libjpeg"
        if made.right:
            found.append(Finding("decoding", node, "pass", text))
        else:
            remedy = "this decoder shows other pixels: do not train here; compare the pins and the driver"
            found.append(Finding("decoding", node, "to do", text, remedy))
        if device != "cpu":
            library = jpeg_engine.library_is_there()
            found.append(jpeg_engine.finding(node, device, library=library, percent=made.engine))
    return found


def storage(node: str, uri: str, megabytes: int) -> list[Finding]:
    """How fast the storage of data sets and runs is written and read, and whether it gives back what was written."""
    content = os.urandom(2**20) * megabytes
    name = f".doctor-{uuid.uuid4().hex}"
    try:
        store = Store.open(uri)
        start = time.perf_counter()
        store.write(name, content)
        written = time.perf_counter() - start
        try:
            start = time.perf_counter()
            back = store.read(name)
            read = time.perf_counter() - start
        finally:
            store.delete(name)
    except UserError as error:
        return [Finding("storage", node, "to do", str(error), "check the path, the keys, the endpoint and the network")]
    size = len(content)
    rates = f"{store.uri}: writes {size / written / 1e6:,.0f} MB/s, reads {size / read / 1e6:,.0f} MB/s"
    if store.is_local:
        rates += " (from this machine's page cache)"
    if sha256(back) != sha256(content):
        return [Finding("storage", node, "to do", rates, "what came back is not what was written: do not use it")]
    if size / read < MIN_RATE:
        remedy = f"below {MIN_RATE / 1e6:.0f} MB/s GPUs wait; is it in the same region? a larger shard cache helps"
        return [Finding("storage", node, "to do", rates, remedy)]
    return [Finding("storage", node, "pass", rates)]


def cache(node: str, folder: str) -> list[Finding]:
    """Whether the folder of the shard cache can be written, and how many bytes are free there."""
    store = Store.open(folder)
    try:
        store.check_writable()
    except UserError as error:
        return [Finding("cache", node, "to do", str(error), "point --data.cache to a folder that can be written")]
    free = shutil.disk_usage(store.local()).free
    found = f"{store.uri}: {free / GIB:,.0f} GiB free"
    if free < MIN_FREE:
        remedy = f"all of RSNA at 256 pixels wants {MIN_FREE / GIB:.0f} GiB; smaller data sets and subsets need less"
        return [Finding("cache", node, "not there", found, remedy)]
    return [Finding("cache", node, "pass", found)]


def weights(node: str) -> list[Finding]:
    """Whether the pretrained weights that recipes begin with are here, or can be downloaded."""
    wanted = {source.name: source for recipe in RECIPES if (source := published(recipe().model))}
    away = [source for source in wanted.values() if source.copy() is None]
    found = f"{len(wanted) - len(away)} of the recipes' {len(wanted)} files are here"
    if not away:
        return [Finding("weights", node, "pass", found)]
    if why := away[0].out_of_reach():
        remedy = "recipes need --model.weights PATH (a file fetched elsewhere) or --model.weights none here"
        return [Finding("weights", node, "not there", f"{found}; {away[0].url} is out of reach: {why}", remedy)]
    return [Finding("weights", node, "pass", f"{found}, the others can be downloaded")]


def wandb(node: str) -> list[Finding]:
    """Whether W&B answers; asked only where a key is set, and the key is not sent."""
    if not os.environ.get("WANDB_API_KEY"):
        return [Finding("W&B", node, "not there", "WANDB_API_KEY is not set", "runs are logged offline")]
    base = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    start = time.perf_counter()
    try:
        with urllib.request.urlopen(base, timeout=10) as answer:
            code = answer.status
    except urllib.error.HTTPError as error:  # it answers, which is what is asked
        code = error.code
    except (OSError, ValueError) as error:
        remedy = "check proxy and network policy, or use --tracking.mode offline; runs go on without W&B"
        return [Finding("W&B", node, "to do", f"{base} does not answer: {error}", remedy)]
    return [Finding("W&B", node, "pass", f"{base} answers ({code}) in {time.perf_counter() - start:.2f} s")]
