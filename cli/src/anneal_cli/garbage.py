"""`gc`: what lies in a store of a namespace and nothing there refers to any more.

Kept is what is named, by address, key or digest, anywhere in a resource, its status or its plan; what a living resource has
made; what anything kept was made from, so that no lineage ends in the dark; and what no resource has made (an imported model),
as somebody put it there by hand.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from anneal_cli.kubectl import Object
from anneal_cli.lineage import Artifact

UID_PART = 8
"""Digits of the owner's UID that a run's folder ends in."""


@dataclass(frozen=True)
class Garbage:
    """Folders to remove, and the bytes of the artifacts among them."""

    artifacts: list[str]
    runs: list[str]
    bytes: int

    @property
    def uris(self) -> list[str]:
        """All folders."""
        return [*self.artifacts, *self.runs]


def garbage(artifacts: Sequence[Artifact], runs: Sequence[str], objects: Sequence[Object]) -> Garbage:
    """Return what none of `objects`, the resources of the namespace and their plans, refers to."""
    words = {word for each in objects for word in _words(each)}
    uids = {each["metadata"]["uid"] for each in objects}
    kept = _with_inputs({a.digest for a in artifacts if _named(a, words, uids)}, artifacts)
    doomed = [artifact for artifact in artifacts if artifact.digest not in kept]
    living = {str(uid)[:UID_PART] for uid in uids}
    stale = [run for run in runs if run.rstrip("/")[-UID_PART:] not in living]
    return Garbage([a.uri for a in doomed], stale, sum(a.bytes for a in doomed))


def _named(artifact: Artifact, words: set[str], uids: set[str]) -> bool:
    uid = artifact.manifest.producer.uid
    return not uid or uid in uids or bool({artifact.uri, artifact.digest, artifact.manifest.key} & words)


def _with_inputs(kept: set[str], artifacts: Sequence[Artifact]) -> set[str]:
    inputs = {artifact.digest: set(artifact.manifest.inputs.values()) for artifact in artifacts}
    while more := {each for digest in kept for each in inputs.get(digest, ())} - kept:
        kept = kept | more
    return kept


def _words(value: Any) -> Iterator[str]:
    """Yield every text in nested values, and of those that hold JSON themselves every text within."""
    if isinstance(value, dict):
        for each in value.values():
            yield from _words(each)
    elif isinstance(value, list):
        for each in value:
            yield from _words(each)
    elif isinstance(value, str):
        yield from _within(value)


def _within(text: str) -> Iterator[str]:
    if not text.startswith("{"):
        yield text.rstrip("/")
        return
    yield from _words(_json(text))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def text(found: Garbage, *, removed: bool) -> str:
    """Return what was found as a person reads it."""
    if not found.uris:
        return "nothing to remove"
    verb = "removed" if removed else "would be removed (--yes removes)"
    return "\n".join(
        [*found.uris, f"{len(found.uris)} folders, {found.bytes / 2**20:.1f} MiB in artifacts: {verb}"]
    )
