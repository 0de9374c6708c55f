"""Damage of every kind to JSON, tables, lines and bytes, drawn from a generator."""

from __future__ import annotations

import csv
import io
import json
import random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ABSURD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "x", "nan", "../x", "é\0" * 3,
    "9" * 5000, [], {}, [None], {"a": []}, [[[[[[1]]]]]],
)  # fmt: skip


def changed_bytes(rng: random.Random, content: bytes) -> bytes:
    """A file after a fault of a disk, an editor or a copy."""
    at = rng.randrange(len(content))
    length = rng.randint(1, 200)
    return rng.choice(
        [
            b"",
            content[:at],
            content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :],
            content[:at] + bytes(length) + content[at + length :],
            content[:at] + content[at + length :],
            content[:at] + rng.randbytes(length) + content[at:],
            content + content,
            content.decode("latin-1").encode("utf-16"),
            b"\xef\xbb\xbf" + content,
            rng.randbytes(len(content)),
        ]
    )


def changed_value(rng: random.Random, value: Any) -> Any:
    """A JSON value with one of its parts, at any depth, replaced, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.15:
            return {name: part for name, part in value.items() if name != key}
        if kind < 0.25:
            return value | {"more": rng.choice(ABSURD)}
        return value | {key: changed_value(rng, value[key])}
    if isinstance(value, list | tuple) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], changed_value(rng, value[at]), *value[at + 1 :]]
    return rng.choice(ABSURD)


def changed_json(rng: random.Random, content: bytes) -> bytes:
    """A JSON file of which a byte or a value is another."""
    if rng.random() < 0.3:
        return changed_bytes(rng, content)
    return json.dumps(changed_value(rng, json.loads(content))).encode()


def changed_table(rng: random.Random, table: pa.Table) -> pa.Table:
    """A table of which a column is missing, of another type, null or absurd, or the rows others."""
    at = rng.randrange(table.num_columns)
    field, rows = table.schema.field(at), table.num_rows
    others = [
        pa.nulls(rows),
        pa.array(["x"] * rows),
        pa.array([2**62] * rows),
        pa.array([-1] * rows),
        pa.array([float("nan")] * rows),
        pa.array([[1]] * rows),
        pa.array([[b"x" * 16, None][i % 2] for i in range(rows)]),
        pa.array([None, *table.column(at).to_pylist()[1:]], field.type),
    ]
    return rng.choice(
        [
            lambda: table.remove_column(at),
            lambda: table.slice(0, 0),
            lambda: pa.concat_tables([table, table]),
            lambda: table.slice(1),
            *[lambda other=other: table.set_column(at, pa.field(field.name, other.type), other) for other in others]
            * 2,
        ]
    )()


def parquet(table: pa.Table) -> bytes:
    """Its file."""
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def changed_lines(rng: random.Random, content: bytes) -> bytes:
    """A text file of values between commas, of which a byte or a value is another."""
    if rng.random() < 0.4:
        return changed_bytes(rng, content)
    rows = [line.split(",") for line in content.decode().splitlines()]
    row = rng.choice(rows[rng.random() < 0.9 :])
    row[rng.randrange(len(row))] = rng.choice(
        ["", "2", "-1", "nan", "inf", "1e999", "yes", " ", "\0", '"', "x" * 10**6, "0.5"]
    )
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    return file.getvalue().encode()
