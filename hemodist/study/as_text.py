"""Times and differences as a person reads them."""

from __future__ import annotations

import math

from hemodist.metrics.paired import Difference
from hemodist.reports.as_text import clock


def duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss.

    >>> duration(75.4), duration(3725), duration(0.31)
    ('1:15', '1:02:05', '0.3 s')
    """
    return f"{seconds:.1f} s" if seconds < 10 else clock(seconds).removeprefix("0")


def difference_text(one: Difference) -> str:
    """A difference as text: value, interval, and p where there is a test."""
    p = "" if math.isnan(one.p) else f"; p = {one.p:.2g}"
    return f"{one.value:+.4f} (95 % interval {one.low:+.4f} to {one.high:+.4f}{p})"
