"""Who a slice belongs to: keyed pseudonyms of identifiers, and a number that all spellings of one identifier share."""

from __future__ import annotations

import hashlib
import unicodedata

KINDS = ("patient", "study", "series")
"""The identifiers whose pseudonyms stand in the index."""


def pseudonym(identifier: str | None, kind: str, key: bytes) -> str | None:
    """A keyed hash of an identifier as it is spelled, 32 hexadecimal digits, which tells nothing without the key.

    None where there is no identifier, or only spaces.
    """
    if identifier is None or not _folded(identifier):
        return None
    return _hash(identifier, kind, key, 16).hex()


def number(identifier: str | None, kind: str, key: bytes) -> int | None:
    """A keyed number of an identifier, int64: the same for all of its spellings, which differ in case and spaces.

    Two of a million identifiers share a number with a probability of 3e-8. None where there is no identifier.
    """
    folded = None if identifier is None else _folded(identifier)
    return None if not folded else int.from_bytes(_hash(folded, f"one {kind}", key, 8), "little", signed=True)


def _folded(identifier: str) -> str:
    """Small letters, single spaces within and none around; NUL pads like a space (PS3.5 6.2)."""
    return " ".join(unicodedata.normalize("NFKC", identifier).replace("\0", " ").casefold().split())


def _hash(text: str, purpose: str, key: bytes, size: int) -> bytes:
    content = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=size, key=key, person=purpose.encode()).digest()
