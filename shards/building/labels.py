"""RSNA's label file, a CSV of the columns `ID,Label`: six rows a slice, such as `ID_0123abcd9_epidural,0`."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from hemodist.dataset.digest import sha256
from hemodist.dataset.labels import LABELS, UNKNOWN, contradictory
from hemodist.errors import ConfigError
from hemodist.storage import text_file
from hemodist.storage.store import Store, shown

FILE_NAMES = tuple(
    f"{name}.csv{packed}" for name in ("stage_2_train", "stage_1_train") for packed in ("", ".zip", ".gz")
)
"""RSNA's label files, the better one first; looked for in the source and in the folder above it."""

NO_LABELS = "no"
"""As `--labels`: none, whatever lies beside the images."""

BAD = 2
"""Stands for a value that is no label."""


@dataclass(frozen=True)
class LabelReport:
    """What was found in a label file.

    Attributes:
        rows: rows below the header.
        slices: different slices in them.
        duplicate_rows: rows that name a slice and label again.
        conflicts: labels of a slice on which several rows disagree; they are unknown.
        unknown_subtypes: rows whose label is none of the six, or whose ID has no label; ignored.
        empty_values: rows without a value; the label is unknown.
        inconsistent_any: slices whose `any` contradicts their subtypes; kept as they are.
    """

    rows: int = 0
    slices: int = 0
    duplicate_rows: int = 0
    conflicts: int = 0
    unknown_subtypes: int = 0
    empty_values: int = 0
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
        digest: SHA-256 of the file's text; empty without one.
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

    def matched(self, stems: Sequence[str], uri: str | None) -> tuple[LabelTable, int]:
        """The slices whose name exactly one file has, and how many have that of several: whose label would it be?

        Args:
            stems: of all files of the source.
            uri: of the label file; None without one.

        Raises:
            ConfigError: not one file gets a label: a data set without any is never what a label file was meant for.
        """
        names = _texts(stems).dictionary_encode()
        times = np.append(np.bincount(names.indices, minlength=len(names.dictionary)), 0)
        files = times[pc.index_in(self.ids, value_set=names.dictionary).fill_null(-1)]
        table = replace(self, ids=self.ids.filter(pa.array(files == 1)), values=self.values[files == 1])
        if uri is not None and not (table.values != UNKNOWN).any():
            why = f"it names {self.ids[0]} and so on, and the files {names[0]}; give the one of these images"
            if (files > 1).any():
                name = self.ids[int((files > 1).argmax())]
                why = f"{np.count_nonzero(files > 1)} of its names are of several files ({name}); give each its own"
            raise ConfigError(
                f"the label file {uri} labels none of the {len(stems)} files: {why}, or give --labels {NO_LABELS}"
            )
        return table, int(np.count_nonzero(files > 1))


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


def read(uri: str) -> LabelTable:
    """Read a label file; RSNA's have up to 120 MB.

    Raises:
        ConfigError: the file is missing, not of this form, holds a value that is no label, or labels nothing.
        StoreError: it cannot be read.
    """
    content = text_file.read(uri, "the label file")
    return _collect(content, uri, sha256(content))


def _collect(content: bytes, uri: str, digest: str) -> LabelTable:
    ids: list[pa.Array] = []
    codes: list[npt.NDArray[np.int8]] = []
    values: list[npt.NDArray[np.int8]] = []
    rows = unknown_subtypes = empty_values = 0
    columns = _columns(content, uri)
    reading = pacsv.ReadOptions(column_names=columns, skip_rows=1)
    converting = pacsv.ConvertOptions(
        column_types={"id": pa.string(), "label": pa.string()}, include_columns=["id", "label"]
    )
    try:
        for batch in pacsv.open_csv(pa.BufferReader(content), reading, convert_options=converting):
            parts = pc.extract_regex(batch.column("id"), r"(?s)^(?P<slice>.+)_(?P<label>[^_]+)$")
            name, label = (pc.utf8_trim_whitespace(pc.struct_field(parts, part)) for part in ("slice", "label"))
            code = pc.index_in(pc.utf8_lower(label), value_set=pa.array(LABELS))
            texts = batch.column("label").dictionary_encode()
            value = np.array([value_of(text) for text in texts.dictionary.to_pylist()], np.int8)[texts.indices]
            known = pc.is_valid(code).to_numpy(zero_copy_only=False)
            bad = known & (value == BAD)
            if bad.any():
                raise _bad_value(uri, batch.slice(int(bad.argmax()), 1).to_pylist()[0], rows + int(bad.argmax()))
            usable = known & (value != UNKNOWN)
            rows += batch.num_rows
            unknown_subtypes += int(np.count_nonzero(~known))
            empty_values += int(np.count_nonzero(known & ~usable))
            ids.append(name.filter(pa.array(usable)))
            codes.append(code.filter(pa.array(usable)).to_numpy().astype(np.int8))
            values.append(value[usable])
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{uri} is not a label file with the columns ID and Label: {error}") from error
    if not rows:
        raise ConfigError(f"label file {uri} holds no row")
    if not any(map(len, values)):
        raise ConfigError(
            f"label file {uri} labels nothing: of its {rows} rows {unknown_subtypes} name none of the labels "
            f"{', '.join(LABELS)}, and {empty_values} have no value; a row is like ID_0123abcd9_epidural,0"
        )
    encoded = pa.chunked_array(ids, pa.string()).combine_chunks().dictionary_encode()
    names = encoded.dictionary
    cell = encoded.indices.to_numpy().astype(np.int64) * len(LABELS) + np.concatenate(codes)
    seen = np.concatenate(values)
    count = len(names) * len(LABELS)
    no, yes = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    no[cell[seen == 0]] = yes[cell[seen == 1]] = True
    cells = np.full(count, UNKNOWN, np.int8)
    cells[no & ~yes] = 0
    cells[yes & ~no] = 1
    table = cells.reshape(-1, len(LABELS))
    report = LabelReport(
        rows=rows,
        slices=len(names),
        duplicate_rows=len(cell) - int(np.count_nonzero(no | yes)),
        conflicts=int(np.count_nonzero(no & yes)),
        unknown_subtypes=unknown_subtypes,
        empty_values=empty_values,
        inconsistent_any=int(contradictory(table).sum()),
    )
    return LabelTable(names, table, report, digest)


def _columns(content: bytes, uri: str) -> list[str]:
    """Names of the columns, without spaces and in small letters."""
    first = re.match(rb"[^\r\n]{0,4096}", content)
    assert first is not None
    line = first[0].decode(errors="replace")
    names = [name.strip().casefold() for name in next(csv.reader([line]), [])]
    if names.count("id") != 1 or names.count("label") != 1:
        raise ConfigError(
            f"{uri} is not a label file: its first line is {line[:80]!r}, not the columns ID and Label with a comma"
        )
    return names


def value_of(text: str) -> int:
    """0, 1, `UNKNOWN` for an empty text, or `BAD`: a spreadsheet and pandas write 1 as 1.0, True or "1".

    >>> [value_of(text) for text in ("1", "0.0", " TRUE", "", "2", "nan")]
    [1, 0, 1, -1, 2, 2]
    """
    plain = text.strip().strip("\"'").strip().casefold()
    if not plain:
        return UNKNOWN
    if plain in ("false", "true"):
        return int(plain == "true")
    try:
        number = float(plain)
    except ValueError:
        return BAD
    return int(number) if number in (0, 1) else BAD


def _bad_value(uri: str, row: dict[str, str], number: int) -> ConfigError:
    """What is wrong with a row; `number` counts from 0 below the header."""
    return ConfigError(
        f"label file {uri}, row {number + 2} (the header is row 1): {row['label']!r} of {row['id'].strip()} is no "
        "label; write 1 or true where readers saw it, 0 or false where they did not, nothing where nobody knows"
    )


def _parent(store: Store) -> Store | None:
    folder, slash, _ = store.root.rpartition("/")
    uri = store.uri.rpartition("/")[0]
    return Store(uri, folder, store.filesystem) if slash and folder else None
