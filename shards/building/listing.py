"""Which files a source holds: every file is listed once, whatever its name and wherever links lead."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from hemodist.errors import ConfigError
from hemodist.storage import text_file
from hemodist.storage.retries import with_retries
from hemodist.storage.store import Store, StoreError, shown
from shards.packing.source_files import NO_FILE, File


@dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        files: every file, except hidden ones and the label file in use, sorted by path.
        hidden: number of hidden files and folders, which are left out; what is in such a folder is not looked at.
    """

    files: list[File]
    hidden: int


def list_files(source: Store, without: str | None = None) -> Listing:
    """Every file below the source.

    What is neither file nor folder is listed too, so that it is counted: an interrupted transfer leaves such links.
    Links to folders are followed, but each folder is listed once, wherever links lead.

    Args:
        source: the root of the source.
        without: path or URI of the label file.

    Raises:
        ConfigError: it does not exist, is no folder, or holds no file.
        StoreError: the source cannot be listed.
    """
    if source.is_local:
        if not source.local().is_dir():
            wrong = "is a file, not a folder" if source.local().exists() else "does not exist"
            raise ConfigError(f"the source {source.uri} {wrong}; give the folder that holds the DICOM files")
        found, hidden = _walk(source.root)
        found.sort(key=lambda file: file.path)
    else:
        entries = source.list_all()
        found = [File(*entry) for entry in entries if not _hidden(entry.name)]
        hidden = len(entries) - len(found)
    files = found if without is None else _without(source, found, without)
    if not files:
        but = f" but {hidden} hidden ones" if hidden else ""
        raise ConfigError(
            f"there is no file below the source {source.uri}{but}; give the folder that holds the DICOM files"
        )
    return Listing(files, hidden)


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _without(source: Store, found: list[File], label_file: str) -> list[File]:
    """The files that are not the label file, by whichever path or link each of the two is named."""
    store, name = text_file.place(label_file)
    if source.is_local and store.is_local:
        path = os.path.join(store.root, name)  # noqa: PTH118 - as text, like the names of the listing
        size = os.stat(path).st_size  # noqa: PTH116
        return [file for file in found if file.size != size or not _same(f"{source.root}/{file.path}", path)]
    if type(source.filesystem) is not type(store.filesystem):
        return found
    return [file for file in found if source.path(file.path) != store.path(name)]


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121
    except OSError:  # gone, or not to be looked at: it is counted
        return False


def _walk(root: str) -> tuple[list[File], int]:
    """All files below a local folder, and the number of hidden names.

    pyarrow would know only names in UTF-8, and follow a link to its parent 40 times.
    """
    files: list[File] = []
    hidden = 0
    entered: set[str] = set()
    waiting = [("", os.path.realpath(root))]
    while waiting:
        # What lies in the source itself first, then linked folders: a file has its own path where it has one.
        folders = [waiting.pop(0)]
        while folders:
            folder, real = folders.pop()
            if real in entered:
                continue
            entered.add(real)
            for entry in _scan(f"{root}/{folder}"):
                name = f"{folder}{entry.name}"
                if entry.name.startswith("."):
                    hidden += 1
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append((f"{name}/", os.path.join(real, entry.name)))  # noqa: PTH118
                    continue
                file = _look_at(entry, name)
                if file is not None:
                    files.append(file)
                    continue
                target = os.path.realpath(entry.path)
                if not f"{real}/".startswith(f"{target.rstrip('/')}/"):  # not to where it comes from
                    waiting.append((f"{name}/", target))
        waiting.sort()
    return files, hidden


def _scan(folder: str) -> list[os.DirEntry[str]]:
    def scan() -> list[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            return list(entries)

    try:
        return with_retries(scan)
    except OSError as error:
        raise StoreError(f"cannot list {shown(folder)}: {shown(str(error))}; check the rights") from error


def _look_at(entry: os.DirEntry[str], name: str) -> File | None:
    """The file, or None where the name is a link to a folder."""
    try:
        status = with_retries(entry.stat)
    except PermissionError:  # told apart when it is read
        return File(name, 0)
    except OSError:  # a link to nothing or to itself
        return File(name, NO_FILE)
    if stat.S_ISDIR(status.st_mode):
        return None
    return File(name, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else File(name, NO_FILE)
