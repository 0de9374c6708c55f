"""Dataclasses from JSON that somebody else may have written: each value of its own type, or an error that names it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def typed(kind: type[T], values: bytes | Mapping[str, Any]) -> T:
    """A dataclass from JSON, or from values that JSON can hold.

    A whole number is read as a float where one is asked for; otherwise no value is turned into another type.

    Args:
        kind: the dataclass; its annotations are the types, with bounds of `annotated_types`.
        values: the JSON, or the mapping that it would give.

    Raises:
        ValueError: naming the first value that is missing, unknown, of another type or out of range.
    """
    from pydantic import ValidationError

    try:
        content = values if isinstance(values, bytes) else json.dumps(values).encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(f"it holds what is no JSON: {error}") from None
    try:
        made: T = _reader(kind).validate_json(content, strict=True)  # type: ignore[arg-type]
        return made
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ValueError(f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}{more}") from None


@functools.lru_cache
def _reader(kind: type[Any]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
