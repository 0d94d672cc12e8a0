"""Chance without chance: what is drawn for a document depends on its content, so order and machine change nothing."""

import hashlib

_DRAWS = 1 << 64


def draw(digest: bytes, about: str) -> int:
    """Return a number below 2^64 for the document with this digest; another one for every other `about`."""
    return int.from_bytes(hashlib.sha256(about.encode() + b"\0" + digest).digest()[:8])


def chance(digest: bytes, about: str, rate: float) -> bool:
    """Return whether the document is among a share `rate` of all."""
    return draw(digest, about) < rate * _DRAWS
