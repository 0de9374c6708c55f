"""Local files that are visible only when whole: written under another name, flushed, and then renamed."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

PARTIAL_SUFFIX = ".partial"
"""Ends the name of a file that is being written; readers and listings ignore such files."""


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file, and its folder where that is missing; nothing is left behind of a try that fails.

    Raises:
        OSError: it could not be written; an earlier file of that name is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def partial_path(path: Path) -> Path:
    """Where a file is written before it is whole: in the same folder, under a name that nobody else takes."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")


def put_in_place(partial: Path, path: Path) -> None:
    """Give a whole, flushed file its final name, and flush the folder too, so that a power cut does not undo it.

    Raises:
        OSError: it could not be done.
    """
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
