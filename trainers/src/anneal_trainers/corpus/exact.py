"""Exact duplicates: documents that differ in nothing but line ends, space at the end of lines, and blank lines."""

import hashlib
import json
from collections.abc import Sequence


def normalised(text: str) -> str:
    """Return a text without what two copies of one document may differ in."""
    return "\n".join(line for line in map(str.rstrip, text.splitlines()) if line)


def fingerprint(parts: Sequence[str]) -> bytes:
    """Return the sha256 of a document of several parts (the messages of a chat); equal for exact duplicates."""
    content = json.dumps([normalised(part) for part in parts], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).digest()
