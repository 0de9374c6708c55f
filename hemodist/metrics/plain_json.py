"""Scores as JSON, which knows no NaN."""

from __future__ import annotations

import math
from typing import Any


def plain_json(value: Any) -> Any:
    """The same with lists for tuples and None for numbers that are not finite, which JSON has not (RFC 8259)."""
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
