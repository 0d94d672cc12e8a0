"""A decision as data: what to write, what to remove, and when to look again."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object as the API server speaks it."""
EVENT_LIMIT = 1000
"""Characters of an event's message; the API server takes 1,024."""


@dataclass(frozen=True)
class Deletion:
    """An object to remove, only if it is still the one that was seen."""

    kind: str
    namespace: str
    name: str
    uid: str
    version: str = ""
    """Its resourceVersion, where a change since then (it has succeeded) would change the decision."""


@dataclass(frozen=True)
class Event:
    """Something a user should read about; `token` makes a repeated one the same object."""

    warning: bool
    reason: str
    message: str
    token: str


@dataclass(frozen=True)
class Decision:
    """Everything one look at a resource leads to, in the order in which it is carried out."""

    finalizers: list[str] | None = None
    """The resource's own finalizers, when they must change."""
    events: list[Event] = field(default_factory=list)
    status: Object | None = None
    """The whole status, when it differs from what is stored."""
    delete: list[Deletion] = field(default_factory=list)
    apply: list[Object] = field(default_factory=list)
    create: list[Object] = field(default_factory=list)
    claims: bool = False
    """Whether `status` is the first to claim what is created: as long as it is not stored, nobody can have made it."""
    requeue_at: datetime | None = None
