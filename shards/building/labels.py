"""RSNA's label file, a CSV of the columns `ID,Label`: six rows a slice, such as `ID_0123abcd9_epidural,0`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from hemodist.dataset.digest import sha256
from hemodist.dataset.labels import LABELS, UNKNOWN
from hemodist.errors import ConfigError
from hemodist.storage.store import Store, shown

FILE_NAMES = ("stage_2_train.csv", "stage_1_train.csv")
"""RSNA's label files, the better one first; looked for in the source and in the folder above it."""

_VALUES = pa.array(["0", "1"])


@dataclass(frozen=True)
class LabelReport:
    """What was found in a label file.

    Attributes:
        rows: rows below the header.
        slices: different slices in them.
        duplicate_rows: rows that name a slice and label again.
        conflicts: labels of a slice on which several rows disagree; they are unknown.
        unknown_subtypes: rows whose label is none of the six, or whose ID has no label; ignored.
        bad_values: rows whose value is neither 0 nor 1; ignored.
        inconsistent_any: slices whose `any` contradicts their subtypes; kept as they are.
    """

    rows: int = 0
    slices: int = 0
    duplicate_rows: int = 0
    conflicts: int = 0
    unknown_subtypes: int = 0
    bad_values: int = 0
    inconsistent_any: int = 0

    def counts(self) -> dict[str, int]:
        """The counts by name, in words."""
        return {field.name.replace("_", " "): getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class LabelTable:
    """Labels by slice.

    Attributes:
        ids: names of the slices, each once (an Arrow array of strings: 12 bytes a name and no Python object).
        values: int8 [slices, 6], 0, 1 or `UNKNOWN`.
        report: what was found in the file.
        digest: SHA-256 of the file; empty without one.
    """

    ids: pa.Array
    values: npt.NDArray[np.int8]
    report: LabelReport
    digest: str

    def of(self, stems: Sequence[str]) -> npt.NDArray[np.int8]:
        """Labels of the files with these stems, int8 [files, 6]; those of a file without labels are all `UNKNOWN`."""
        found = pc.index_in(_texts(stems), value_set=self.ids).fill_null(-1).to_numpy(zero_copy_only=False)
        padded = np.concatenate([self.values, np.full((1, len(LABELS)), UNKNOWN, np.int8)])
        result: npt.NDArray[np.int8] = padded[found]
        return result

    def without_file(self, stems: Sequence[str]) -> int:
        """Number of labelled slices that no file has the name of."""
        known = pc.is_in(self.ids, value_set=_texts(stems))
        return len(self.ids) - int(pc.sum(known).as_py() or 0)


def _texts(names: Sequence[str]) -> pa.Array:
    try:
        return pa.array(names, pa.string())
    except UnicodeError:  # bytes of a file's name that are not UTF-8
        return pa.array([shown(name) for name in names], pa.string())


def no_labels() -> LabelTable:
    """The table of a source without labels: every label of every slice is unknown."""
    return LabelTable(pa.array([], pa.string()), np.empty((0, len(LABELS)), np.int8), LabelReport(), "")


def find(source: Store) -> str | None:
    """Path or URI of RSNA's label file in the source or the folder above it; None where there is none."""
    for folder in (source, _parent(source)):
        for name in FILE_NAMES:
            if folder is not None and folder.size(name) is not None:
                return f"{folder.uri}/{name}"
    return None


def place(uri: str) -> tuple[Store, str]:
    """The folder of a label file, and the file's name in it; links of a local path are followed."""
    folder, _, name = uri.rpartition("/") if "://" in uri else str(Path(uri).expanduser().resolve()).rpartition("/")
    return Store.open(folder or "/"), name


def read(uri: str) -> LabelTable:
    """Read a label file; RSNA's have up to 120 MB.

    Raises:
        ConfigError: the file is missing or not of this form.
        StoreError: it cannot be read.
    """
    store, name = place(uri)
    if store.size(name) is None:
        raise ConfigError(
            f"label file {uri} does not exist; give the path of RSNA's stage_2_train.csv, or leave it out"
        )
    content = store.read(name)
    return _collect(content, uri, sha256(content))


def _collect(content: bytes, uri: str, digest: str) -> LabelTable:
    ids: list[pa.Array] = []
    codes: list[npt.NDArray[np.int8]] = []
    values: list[npt.NDArray[np.int8]] = []
    rows = unknown_subtypes = bad_values = 0
    options = pacsv.ConvertOptions(
        column_types={"ID": pa.string(), "Label": pa.string()}, include_columns=["ID", "Label"]
    )
    try:
        for batch in pacsv.open_csv(pa.BufferReader(content), convert_options=options):
            parts = pc.extract_regex(batch.column("ID"), r"^(?P<slice>.+)_(?P<label>[^_]+)$")
            code = pc.index_in(pc.struct_field(parts, "label"), value_set=pa.array(LABELS))
            value = pc.index_in(pc.utf8_trim_whitespace(batch.column("Label")), value_set=_VALUES)
            known = pc.is_valid(code)
            usable = pc.and_(known, pc.is_valid(value))
            rows += batch.num_rows
            unknown_subtypes += batch.num_rows - int(pc.sum(known).as_py() or 0)
            bad_values += int(pc.sum(known).as_py() or 0) - int(pc.sum(usable).as_py() or 0)
            ids.append(pc.struct_field(parts, "slice").filter(usable))
            codes.append(code.filter(usable).to_numpy().astype(np.int8))
            values.append(value.filter(usable).to_numpy().astype(np.int8))
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise ConfigError(f"{uri} is not a label file with the columns ID and Label: {error}") from error
    if not rows:
        raise ConfigError(f"label file {uri} holds no row")
    encoded = pa.chunked_array(ids, pa.string()).combine_chunks().dictionary_encode()
    names = encoded.dictionary
    cell = encoded.indices.to_numpy().astype(np.int64) * len(LABELS) + np.concatenate(codes)
    seen = np.concatenate(values)
    count = len(names) * len(LABELS)
    no, yes = (np.bincount(cell[seen == value], minlength=count) for value in (0, 1))
    cells = np.full(count, UNKNOWN, np.int8)
    cells[(no > 0) & (yes == 0)] = 0
    cells[(yes > 0) & (no == 0)] = 1
    table = cells.reshape(-1, len(LABELS))
    report = LabelReport(
        rows=rows,
        slices=len(names),
        duplicate_rows=len(cell) - int(np.count_nonzero(no + yes)),
        conflicts=int(np.count_nonzero((no > 0) & (yes > 0))),
        unknown_subtypes=unknown_subtypes,
        bad_values=bad_values,
        inconsistent_any=_inconsistent(table),
    )
    return LabelTable(names, table, report, digest)


def _inconsistent(table: npt.NDArray[np.int8]) -> int:
    """Slices with `any` 0 beside a positive subtype, or `any` 1 beside five negative ones."""
    whole, subtypes = table[:, 0], table[:, 1:]
    return int(np.count_nonzero(((whole == 0) & (subtypes == 1).any(1)) | ((whole == 1) & (subtypes == 0).all(1))))


def _parent(store: Store) -> Store | None:
    folder, slash, _ = store.root.rpartition("/")
    uri = store.uri.rpartition("/")[0]
    return Store(uri, folder, store.filesystem) if slash and folder else None
