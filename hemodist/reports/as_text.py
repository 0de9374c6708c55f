"""Numbers as a person reads them, in tables, sentences and pages; and URIs without their credentials."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hemodist.metrics.bootstrap import Estimate


def number(value: Any, digits: int = 4) -> str:
    """Fixed digits, or significant ones for what they would round away; "-" for what is not defined."""
    x = as_float(value)
    if not math.isfinite(x):
        return "-"
    return f"{x:.{digits}f}" if x == 0 or abs(x) >= 10.0 ** (1 - digits) else f"{x:.{max(2, digits - 2)}g}"


def as_float(value: Any) -> float:
    """The number, or nan for None, which JSON has instead."""
    return math.nan if value is None else float(value)


def interval_text(estimate: Estimate) -> str:
    """The two ends; "-" where there is no interval."""
    return f"{number(estimate.low)} to {number(estimate.high)}" if math.isfinite(estimate.low) else "-"


def percent(value: Any) -> str:
    """A share in percent; "-" for what is not defined."""
    x = as_float(value)
    return f"{100 * x:.1f} %" if math.isfinite(x) else "-"


def percent_interval(estimate: Estimate) -> str:
    """The interval of a share in percent, in brackets; empty where there is none."""
    if not math.isfinite(estimate.low):
        return ""
    return f" (95 % interval over patients {100 * estimate.low:.0f} to {100 * estimate.high:.0f} %)"


def threshold(value: float) -> str:
    """All of its digits, so that it can be applied; "-" where nothing is called."""
    return f"{value:.16g}" if math.isfinite(value) else "-"


def clock(seconds: float) -> str:
    """Seconds as mm:ss, from an hour on as h:mm:ss."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:02d}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values of a nested mapping, in its own order."""
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", f"{value:g}" if isinstance(value, float) else str(value)


def without_credentials(value: Any) -> Any:
    """The same with user names, passwords and query strings taken out of every URI.

    >>> without_credentials({"data": "s3://KEY:SECRET@bucket/rsna?region=x", "lr": 0.1})
    {'data': 's3://bucket/rsna', 'lr': 0.1}
    """
    if isinstance(value, str):
        return re.sub(r"(\w+://)([^/@\s]*@)?([^?\s]*)(\?\S*)?", r"\1\3", value)
    if isinstance(value, Mapping):
        return {name: without_credentials(item) for name, item in value.items()}
    return [without_credentials(item) for item in value] if isinstance(value, list | tuple) else value
