"""Digests: the names of exact content."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def sha256(content: bytes | memoryview) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def config_digest(config: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a configuration."""
    return sha256(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
