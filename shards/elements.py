"""Elements of a data set as plain Python values, whatever the file did to them."""

from __future__ import annotations

import math
from typing import Any

from pydicom import Dataset

from shards.reason import Fault, Reason


def raw(dataset: Dataset, keyword: str) -> Any:
    """The value of an element; None where it is missing or empty.

    Raises:
        Fault: the element is there and cannot be read.
    """
    try:
        value = dataset.get(keyword)
        if (
            value is None
            or value == ""
            or (not isinstance(value, str | bytes) and hasattr(value, "__len__") and not len(value))
        ):
            return None
    except Exception as error:
        raise Fault(Reason.BAD_VALUE, f"{keyword} is malformed ({type(error).__name__})") from error
    return value


def integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """The value of an integer element.

    Raises:
        Fault: it is missing (and there is no default), malformed, or no integer.
    """
    value = raw(dataset, keyword)
    if value is None:
        if default is None:
            raise Fault(Reason.BAD_VALUE, f"{keyword} is missing")
        return default
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise Fault(Reason.BAD_VALUE, f"{keyword} is not an integer") from error


def numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """The values of a numeric element; None unless there are `count` finite ones."""
    try:
        value = raw(dataset, keyword)
        values = [value] if count == 1 and not isinstance(value, list | tuple) else list(value)
        result = tuple(float(item) for item in values)
    except (Fault, TypeError, ValueError):
        return None
    return result if len(result) == count and all(math.isfinite(item) for item in result) else None


def number(dataset: Dataset, keyword: str) -> float | None:
    """The value of a numeric element, the first of several; None where there is none."""
    try:
        value = raw(dataset, keyword)
        if value is None:
            return None
        first = value if isinstance(value, str | int | float) else value[0]
        result = float(first)
    except (Fault, TypeError, ValueError, LookupError):
        return None
    return result if math.isfinite(result) else None


def words(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of a code string element, stripped, in capitals; empty where there are none."""
    try:
        value = raw(dataset, keyword)
    except Fault:
        return ()
    if value is None:
        return ()
    values = [value] if isinstance(value, str | bytes) else list(value)
    return tuple(str(item).strip().upper() for item in values)


def text(dataset: Dataset, keyword: str) -> str | None:
    """The value of an identifier as text; None where it is missing, empty or malformed."""
    try:
        value = raw(dataset, keyword)
        stripped = "" if value is None else str(value).strip(" \0")
    except Exception:  # An identifier that cannot be read is unknown; it never costs the slice.
        return None
    return stripped or None
