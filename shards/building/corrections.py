"""Corrected labels: the CSV that `jobs/evaluate.py --review` writes, as a reader has filled it in."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hemodist.dataset.digest import sha256
from hemodist.dataset.labels import CORRECTED, LABELS, SLICE_ID, UNKNOWN, of_cell
from hemodist.errors import ConfigError
from hemodist.storage import text_file
from shards.building.labels import BAD, value_of

Labels = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Corrections:
    """Labels that replace those of the label file.

    Attributes:
        uri: of the file.
        digest: SHA-256 of its text; empty without one.
        values: by the sample's key, int8 [6]; `UNKNOWN` leaves a label as it is.
        row: by key, the first row that names it; the header is row 1.
    """

    uri: str = ""
    digest: str = ""
    values: dict[str, Labels] = field(default_factory=dict)
    row: dict[str, int] = field(default_factory=dict)

    def check_known(self, keys: Sequence[str]) -> None:
        """Check that each is of a sample that the source can have.

        Args:
            keys: of all files of the source.

        Raises:
            ConfigError: one is not; the text names the first.
        """
        if strange := self.row.keys() - set(keys):
            first = min(strange, key=lambda key: self.row[key])
            raise ConfigError(
                f"corrections {self.uri}, row {self.row[first]}: {first!r} is the id of no slice of the source, and so "
                f"are {len(strange) - 1} more; write ids as the review has them, or give the source that was reviewed"
            )

    def applied(self, keys: Sequence[str], labels: Labels) -> Labels:
        """The labels with the corrections, int8 [n, 6].

        Args:
            keys: of n samples.
            labels: int8 [n, 6], of the label file.
        """
        if not self.values:
            return labels
        given = self._of(keys)
        return np.where(given == UNKNOWN, labels, given)

    def counts(self, keys: Sequence[str], labels: Labels) -> dict[str, int | str]:
        """What they change of these samples, for the manifest, with the file's digest."""
        given = self._of(keys)
        changed = (given != UNKNOWN) & (given != labels)
        return {
            "sha256": self.digest,
            "labels": int(changed.sum()),
            "slices": int(changed.any(axis=1).sum()),
            "confirmed": int(((given != UNKNOWN) & ~changed).sum()),
        }

    def _of(self, keys: Sequence[str]) -> Labels:
        nothing = np.full(len(LABELS), UNKNOWN, np.int8)
        found = [self.values.get(key, nothing) for key in keys]
        return np.stack(found) if found else np.empty((0, len(LABELS)), np.int8)


def read(uri: str) -> Corrections:
    """Read the file; a spreadsheet may have written it with semicolons.

    Raises:
        ConfigError: it is missing, has not the columns, holds a value that is no label, or contradicts itself.
        StoreError: it cannot be read.
    """
    content = text_file.read(uri, "the corrections")
    found = Corrections(uri, sha256(content))
    cells: dict[tuple[str, int], int] = {}
    for number, key, texts in _rows(content.decode(), uri):
        values = found.values.setdefault(key, np.full(len(LABELS), UNKNOWN, np.int8))
        found.row.setdefault(key, number)
        for column, text in enumerate(texts):
            value = value_of(text)
            if value == BAD:
                raise ConfigError(
                    f"corrections {uri}, row {number} (the header is row 1): {text!r} as {CORRECTED}{LABELS[column]} "
                    f"of {key} is no label; write 1 where it is seen, 0 where it is not, nothing to leave it as it is"
                )
            if value == UNKNOWN:
                continue
            if values[column] not in (UNKNOWN, value):
                raise ConfigError(
                    f"corrections {uri}, row {number}: {CORRECTED}{LABELS[column]} of {key} is {value}, and "
                    f"{values[column]} in row {cells[key, column]}; leave one of the two"
                )
            values[column] = value
            cells.setdefault((key, column), number)
    return found


def _rows(text: str, uri: str) -> Iterator[tuple[int, str, list[str]]]:
    """Number, key and six texts of each row that is not empty."""
    first = text.split("\n", 1)[0]
    table = csv.reader(io.StringIO(text, newline=""), delimiter=";" if first.count(";") > first.count(",") else ",")
    try:
        names = [name.strip().casefold() for name in next(table, [])]
        wanted = [SLICE_ID, *(f"{CORRECTED}{label}" for label in LABELS)]
        if any(names.count(name) != 1 for name in wanted):
            raise ConfigError(
                f"{uri} holds no corrections: its first line is {first[:80]!r}, and it must name once each "
                f"{', '.join(wanted)}, as the review of jobs/evaluate.py does"
            )
        places = [names.index(name) for name in wanted]
        for number, row in enumerate(table, 2):
            if not any(cell.strip() for cell in row):
                continue
            if len(row) <= max(places):
                raise ConfigError(
                    f"corrections {uri}, row {number}: it has {len(row)} cells and the header {len(names)}; "
                    "save the file as CSV again"
                )
            yield number, of_cell(row[places[0]]), [row[place] for place in places[1:]]
    except csv.Error as error:
        raise ConfigError(f"corrections {uri} cannot be read as CSV ({error}); save the file as CSV again") from error
