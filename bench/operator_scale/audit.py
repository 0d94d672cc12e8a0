"""The API server's audit log: who wrote what, and when, by the server's own clock."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

NAME_LENGTH = len("job-00000")
"""All resources are named alike; what is made for one begins with its name."""


def name(number: int) -> str:
    """Return the name of a resource."""
    return f"job-{number:05d}"


@dataclass(frozen=True)
class Write:
    """A write that succeeded."""

    user: str
    verb: str
    resource: str
    """With its subresource, as in jobs/status."""
    owner: str
    """The resource it is about, or was made for."""
    name: str
    begun: float
    ended: float
    """Seconds since the epoch."""


@dataclass
class Audit:
    """All writes so far; `read` adds what has come since."""

    path: Path
    writes: list[Write] = field(default_factory=list)
    _offset: int = 0

    def read(self) -> "Audit":
        """Read on from where the last look ended."""
        with self.path.open("rb") as log:
            log.seek(self._offset)
            whole = log.read().rpartition(b"\n")[0]
        self._offset += len(whole) + 1 if whole else 0
        found = (_write(json.loads(line)) for line in whole.splitlines() if line)
        self.writes += [write for write in found if write]
        return self

    def of(self, user: str) -> list[Write]:
        """Return the writes of one user."""
        return [write for write in self.writes if write.user == user]

    def first(self, resource: str, verbs: Sequence[str] = ("create", "patch")) -> dict[str, Write]:
        """Return the first write of that kind for each owner."""
        found: dict[str, Write] = {}
        for write in self.writes:
            if write.resource == resource and write.verb in verbs:
                found.setdefault(write.owner, write)
        return found


def _write(event: dict) -> Write | None:  # type: ignore[type-arg]
    place = event.get("objectRef", {})
    if event["responseStatus"]["code"] >= 300 or "resource" not in place:
        return None
    resource = "/".join(filter(None, (place["resource"], place.get("subresource"))))
    times = (event["requestReceivedTimestamp"], event["stageTimestamp"])
    begun, ended = (datetime.fromisoformat(text).timestamp() for text in times)
    who = event["user"]["username"]
    # A name that the server has made up is not in the log.
    called = place.get("name", "")
    return Write(who, event["verb"], resource, called[:NAME_LENGTH], called, begun, ended)


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that at least this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def counted(writes: Iterable[Write]) -> Counter[str]:
    """Return how often each verb was used on each resource."""
    return Counter(f"{write.verb} {write.resource}" for write in writes)
