"""The files that are no samples: how many of them are faulty, and a table of the reasons with some paths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from hemodist.dataset.index import REJECTED_SCHEMA, read_rejected
from hemodist.dataset.manifest import REJECTED
from hemodist.storage.store import Store
from shards.dicom.reasons import Kind, Reason, kind_of

Row = tuple[str, str, str]
"""Path, reason and detail of a file."""

EXAMPLES = 3
"""Paths of each reason that the table shows."""


def read(store: Store) -> list[Row]:
    """The rows of a data set's `rejected.parquet`.

    Raises:
        DatasetError: it is no such table.
        StoreError: it cannot be read.
    """
    table = read_rejected(store.read(REJECTED), f"{store.uri}/{REJECTED}")
    return list(zip(*(table.column(name).to_pylist() for name in REJECTED_SCHEMA.names), strict=True))


def faulty(rows: Iterable[Row]) -> int:
    """Number of faulty files; what is not meant to be a slice, or was left out by a flag, is no fault."""
    return sum(kind_of(reason, path) == Kind.FAULTY for path, reason, _ in rows)


def faulty_fraction(samples: int, rows: Iterable[Row]) -> float:
    """Share of faulty files among these and the samples."""
    found = faulty(rows)
    return found / max(1, samples + found)


def sorted_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows, faulty files first, then by reason and path."""
    kinds = list(Kind)
    return sorted(rows, key=lambda row: (kinds.index(kind_of(row[1], row[0])), row[1], row[0]))


def table(rows: Sequence[Row]) -> str:
    """The reasons, each with the number of files, whether it is a fault, what it means, and some of the paths.

    It is text and not of rich's, which would break long paths.
    """
    groups, meanings = _grouped(rows), {reason.value: reason.meaning for reason in Reason}
    width = max(len(f"{len(those):,}") for those in groups.values())
    result = ["Files that are no samples"]
    for (kind, reason), those in groups.items():
        meaning = f": {meanings[reason]}" if reason in meanings else ""
        result.append(f"{len(those):>{width},} {reason} ({kind.value}){meaning}")
        result += [f"{'':{width}}   {path}" for path, _, _ in those[:EXAMPLES]]
        result += [f"{'':{width}}   ..."] if len(those) > EXAMPLES else []
    return "\n".join(result)


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """A line a file: reason, path and detail."""
    return (f"{reason}  {path}  {detail}".rstrip() for path, reason, detail in sorted_rows(rows))


def in_short(rows: Sequence[Row]) -> str:
    """The reasons in a line, the most frequent first, with a path each."""
    groups = sorted(_grouped(rows).items(), key=lambda entry: -len(entry[1]))
    return "; ".join(f"{len(those):,} {reason} ({those[0][0]})" for (_, reason), those in groups)


def _grouped(rows: Iterable[Row]) -> dict[tuple[Kind, str], list[Row]]:
    groups: dict[tuple[Kind, str], list[Row]] = {}
    for row in sorted_rows(rows):
        groups.setdefault((kind_of(row[1], row[0]), row[1]), []).append(row)
    return groups
