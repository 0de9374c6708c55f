"""For prediction: DICOM files to the encoded pictures that a data set would hold of them, without writing a data set.

A checkpoint carries the configuration of the data set that it was trained on, and that decides how a picture looks.
Flags that only choose slices for training (`min_brain_fraction`, `selection`) are ignored: every slice is predicted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.storage.store import Store, shown
from shards.building import labels, listing
from shards.dicom.reasons import Rejected
from shards.packing import source_files
from shards.packing.source_files import File, KeyStyle
from shards.packing.task import PackConfig, Task, read_and_make

PER_CHUNK = 256
"""Files of one chunk: seconds of work, and 20 MB of pictures."""


@dataclass(frozen=True)
class FilePicture:
    """A source file's picture, or why there is none.

    Attributes:
        path: below the source.
        key: as in a data set.
        name: what the key is made of, as a person reads it; unique.
        study: pseudonym of the study, the same whenever it is predicted; None where the file does not say.
        series: likewise.
        encoded: the picture; empty where there is none.
        reason: a code of `shards.dicom.reasons.Reason`; empty where there is a picture.
        detail: the numbers.
    """

    path: str
    key: str
    name: str
    study: str | None
    series: str | None
    encoded: bytes
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Files:
    """Some files of a folder: a function from a sharding configuration to their pictures, which can be pickled.

    Attributes:
        folder: path or URI of the source.
        files: below it.
        style: of the keys.
    """

    folder: str
    files: tuple[File, ...]
    style: KeyStyle

    def __call__(self, sharding: Mapping[str, Any]) -> list[FilePicture]:
        """Their pictures, or the reasons why not, in the order of the files."""
        return pictures_of(self.folder, self.files, self.style, sharding)


def chunks(folder: str, per_chunk: int = PER_CHUNK) -> list[Files]:
    """The files below a folder in chunks, which can be spread over processes.

    Raises:
        ConfigError: the folder does not exist, or there is no file.
        StoreError: the folder cannot be listed.
    """
    store = Store.open(folder)
    files = listing.list_files(store, labels.find(store)).files  # RSNA's label file is no scan
    style = source_files.key_style(files)
    parts = [tuple(files[start : start + per_chunk]) for start in range(0, len(files), per_chunk)]
    return [Files(store.uri, part, style) for part in parts]


def chosen(parts: Sequence[Files], keys: Collection[str]) -> Files:
    """The files of all chunks that have one of the keys."""
    style = parts[0].style
    files = [file for part in parts for file in part.files if source_files.key_of(file.path, style) in keys]
    return Files(parts[0].folder, tuple(files), style)


def pictures_of(folder: str, files: Sequence[File], style: KeyStyle, sharding: Mapping[str, Any]) -> list[FilePicture]:
    """The pictures of some files, or the reasons why not, in the order of the files.

    Args:
        folder: path or URI of the source.
        files: below it.
        style: of the keys.
        sharding: the configuration of a data set, as its manifest and checkpoints record it.

    Raises:
        StoreError: a file cannot be read for a reason that is not its own.
    """
    config = PackConfig(
        size=int(sharding["size"]),
        windows=tuple(entry["name"] for entry in sharding["windows"]),
        encoding=sharding["encoding"],
        quality=int(sharding.get("quality") or 95),  # PNG has none
        crop_head=bool(sharding.get("crop_head")),
        min_brain_fraction=0.0,
        key_style=style,
    )
    store = Store.open(folder)
    unlabelled = np.full(len(LABELS), UNKNOWN, np.int8)
    task = Task(0, store.uri, "", tuple(files), b"", config, "", bytes(16))
    found = []
    for file in files:
        path, key = shown(file.path), source_files.key_of(file.path, style)
        name = shown(source_files.name_of(file.path, style))
        made = read_and_make(store, file, unlabelled, task)
        if isinstance(made, Rejected):
            found.append(FilePicture(path, key, name, None, None, b"", made.reason.value, made.detail))
        else:
            found.append(FilePicture(path, key, name, made.row["study"], made.row["series"], made.image))
    return found
