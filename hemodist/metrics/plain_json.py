"""Scores as JSON, which knows no NaN."""

from __future__ import annotations

import math
from typing import Any


def plain_json(values: dict[str, Any]) -> dict[str, Any]:
    """The same with lists for tuples and None for numbers that are not finite, which JSON has not (RFC 8259)."""
    plain: dict[str, Any] = _without_nan(values)
    return plain


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
