"""What decides the bytes of a data set beside its flags and source: versions of packages, and the code itself."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import hemodist
import shards
from hemodist.errors import UserError

PACKAGES = (
    "hemodist", "numpy", "pillow", "pyarrow", "pydicom", "scipy", "xxhash",
    "pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "python-gdcm",
)  # fmt: skip
"""Packages whose versions the manifest names. Those of the second line decode: they decide pixels and rejections."""

NO_BYTES = (
    "__main__.py", "bench", "inspect", "phantom",
    "building/estimate.py", "building/for_prediction.py", "building/progress.py",
)  # fmt: skip
"""Files and folders of this package that decide no byte of a data set. A new file counts until it is named here."""

CONTRACT = "dataset"
"""Folder of the package `hemodist` that says what a data set consists of; all of it counts."""


@functools.cache
def packages() -> dict[str, str]:
    """Versions by name of the packages that decide bytes."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


@functools.cache
def code() -> str:
    """Digest of the source files that decide bytes, 16 hexadecimal digits."""
    return code_digest(Path(shards.__file__).parent, Path(hemodist.__file__).parent)


def code_digest(sharder: Path, library: Path) -> str:
    """The digest that `code` gives, for the packages `shards` and `hemodist` in these folders."""
    found = {file.relative_to(sharder.parent) for file in sharder.rglob("*.py")}
    left_out = {file.relative_to(sharder.parent) for pattern in NO_BYTES for file in _files(sharder, pattern)}
    result = hashlib.sha256()
    contract = {file.relative_to(library.parent) for file in (library / CONTRACT).glob("*.py")}
    for root, names in ((sharder.parent, found - left_out), (library.parent, contract)):
        for name in sorted(names):
            result.update(f"{name}\0".encode() + hashlib.sha256((root / name).read_bytes()).digest())
    return result.hexdigest()[:16]


def _files(folder: Path, pattern: str) -> list[Path]:
    return [file for path in folder.glob(pattern) for file in ([path] if path.is_file() else path.rglob("*.py"))]


def all_versions() -> dict[str, str]:
    """Versions of the packages, and the digest of the code under the name `code`.

    An unfinished data set can only be gone on with under the same ones. The manifest of a finished data set holds no
    digest of the code: a changed comment must not give equal data sets different names.
    """
    return packages() | {"code": code()}


def check(wanted: Mapping[str, str]) -> None:
    """Check that this node has the versions of the driver.

    Raises:
        UserError: naming the differences.
    """
    own = all_versions()
    names = sorted(name for name in wanted.keys() | own.keys() if wanted.get(name) != own.get(name))
    if names:
        listed = "; ".join(f"{name} is {own.get(name)} here, {wanted.get(name)} on the driver" for name in names)
        raise UserError(f"this node would make other bytes than the driver's: {listed}. Give all nodes one image")
