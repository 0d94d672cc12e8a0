"""Deterministic names: whoever computes a child's name, now or after a restart, gets the same one.

A name carries a hash of the owner's UID, so a recreated owner never meets its predecessor's children.
"""

import hashlib
import re
from typing import Any

from anneal_api.artifacts import canonical

OWNER_PART = 28
LABEL_LIMIT = 63


def short_hash(*parts: Any) -> str:
    """Return ten hex digits over `parts`."""
    return hashlib.sha256(canonical(list(parts))).hexdigest()[:10]


def child_name(owner: str, stage: str, *parts: Any) -> str:
    """Return a DNS-1035 name of at most 52 characters, so that `-<index>` of an Indexed Job still fits."""
    start = re.sub(r"[^a-z0-9-]", "-", owner)[:OWNER_PART].rstrip("-")
    start = start if start[:1].isalpha() else f"a{start}"
    return f"{start}-{stage}-{short_hash(*parts)}"


def label_value(name: str) -> str:
    """Return `name` as a label value; one that is too long ends in a hash of itself."""
    if len(name) <= LABEL_LIMIT:
        return name
    return f"{name[:50].rstrip('-.')}-{short_hash(name)}"
