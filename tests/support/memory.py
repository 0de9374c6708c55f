"""Peak memory of this process alone."""

from __future__ import annotations

import re
from pathlib import Path


def peak_bytes() -> int:
    """Largest resident size since this program was loaded.

    `getrusage` would count from the process that started this one, whose size a child inherits until it loads its own
    program; pytest's is over 1 GB once it has imported everything.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
