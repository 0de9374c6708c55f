"""For prediction: DICOM files to the encoded pictures that a data set would hold of them, without writing a data set.

A checkpoint carries the configuration of the data set that it was trained on, and that decides how a picture looks.
Flags that only choose slices for training (`min_brain_fraction`, `selection`) are ignored: every slice is predicted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
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

_MAX_UID = 64  # characters (DICOM PS3.5 6.2)

PER_CHUNK = 256
"""Files of one chunk: seconds of work, and 20 MB of pictures."""


@dataclass(frozen=True)
class FilePicture:
    """A source file's picture, or why there is none.

    Attributes:
        path: below the source.
        key: as in a data set.
        study: Study Instance UID as the file has it; None where it does not say, or says more than a UID can be.
        encoded: the picture; empty where there is none.
        reason: a code of `shards.dicom.reasons.Reason`; empty where there is a picture.
        detail: the numbers.
    """

    path: str
    key: str
    study: str | None
    encoded: bytes
    reason: str = ""
    detail: str = ""


def chunks(folder: str, per_chunk: int = PER_CHUNK) -> list[Callable[[Mapping[str, Any]], list[FilePicture]]]:
    """The files below a folder in chunks, each a function from a sharding configuration to the chunk's pictures.

    The functions can be pickled, so that chunks can be spread over processes.

    Raises:
        ConfigError: the folder does not exist, or there is no file.
        StoreError: the folder cannot be listed.
    """
    store = Store.open(folder)
    files = listing.list_files(store, labels.find(store)).files  # RSNA's label file is no scan
    style = source_files.key_style(files)
    parts = [tuple(files[start : start + per_chunk]) for start in range(0, len(files), per_chunk)]
    return [functools.partial(pictures_of, store.uri, part, style) for part in parts]


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
        quality=int(sharding["quality"] or 0),  # PNG has none
        crop_head=bool(sharding["crop_head"]),
        min_brain_fraction=0.0,
        key_style=style,
    )
    store = Store.open(folder)
    unlabelled = np.full(len(LABELS), UNKNOWN, np.int8)
    task = Task(0, store.uri, "", tuple(files), b"", config, "", bytes(16))
    found = []
    for file in files:
        path, key = shown(file.path), source_files.key_of(file.path, style)
        made = read_and_make(store, file, unlabelled, task)
        if isinstance(made, Rejected):
            found.append(FilePicture(path, key, None, b"", made.reason.value, made.detail))
        else:
            study = made.study if made.study is not None and len(made.study) <= _MAX_UID else None
            found.append(FilePicture(path, key, study, made.image))
    return found
