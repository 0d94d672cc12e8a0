"""The cluster as an unlucky operator sees it: one fault at one moment, everything else as it is."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from api_server import ApiServer, Object, Stopped, as_of, matches

from anneal_operator.cluster.errors import ApiError, Conflict

REFUSALS = ("conflict", "throttled", "error")
READ_FAULTS = ("stale", "lagging")
EVENT_FAULTS = ("dropped", "coalesced")
LAG = 6
"""How many writes old a stale read is."""
SPELL = 4
"""For how many looks in a row reads are stale, or how many events are lost."""


@dataclass(frozen=True)
class Plan:
    """What goes wrong, and when: the number of the write, look, event or tick."""

    scenario: str
    fault: str = ""
    at: int = 0

    def __str__(self) -> str:
        return f"{self.scenario}-{self.fault}-{self.at}" if self.fault else self.scenario


class Faulty:
    """Speaks `Cluster`; counts the writes that changed something, Events aside."""

    def __init__(self, server: ApiServer, plan: Plan) -> None:
        self.server = server
        self.plan = plan
        self.tried = 0
        self.looks = 0
        self.changes: list[tuple[str, str]] = []
        """Verb and object, and the UID of the resource it was written for."""
        self.offences: list[str] = []
        """Writes of status that no look should make: a second one, or one that changes nothing."""
        self._statuses = 0
        self._old: dict[Any, Object] | None = None
        self._random = random.Random(plan.at)

    def look(self) -> None:
        """A reconcile begins; under a read fault it sees the past, as an informer that has fallen behind does."""
        self.looks += 1
        self._statuses = 0
        ill = self.plan.fault in READ_FAULTS and self.plan.at <= self.looks < self.plan.at + SPELL
        self._old = as_of(self.server.history, self.server.version - LAG) if ill else None

    @property
    def behind(self) -> bool:
        """Whether the look sees the past."""
        return self._old is not None

    # Reads: lists and the resource itself come from a cache, everything else is read live.

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        return self.server.get(kind, namespace, name)

    def recall(self, kind: str, namespace: str, name: str) -> Object | None:
        if self._old is not None and self.plan.fault == "stale":
            return self._old.get((kind, namespace, name))
        return self.server.get(kind, namespace, name)

    def select(self, kind: str, namespace: str | None, selector: str = "", fields: str = "") -> list[Object]:
        if self._old is not None and not fields:
            known = (o for (k, n, _), o in self._old.items() if k == kind and namespace in (None, n))
            return [obj for obj in known if matches(obj, selector)]
        found = self.server.select(kind, namespace, selector, fields)
        if self.plan.fault == "shuffled":
            self._random.shuffle(found)
        return found

    # Writes.

    def create(self, obj: Object) -> Object:
        return self._write("create", obj, lambda: self.server.create(obj))

    def apply(self, obj: Object) -> Object:
        return self._write("apply", obj, lambda: self.server.apply(obj))

    def update_status(self, obj: Object) -> Object:
        self._statuses += 1
        before = self.server.version
        answer = self._write("status", obj, lambda: self.server.update_status(obj))
        if self._statuses > 1 or self.server.version == before:
            self.offences.append(f"look {self.looks}: write {self._statuses} of a status")
        return answer

    def set_finalizers(self, obj: Object, finalizers: list[str]) -> Object:
        return self._write("finalizers", obj, lambda: self.server.set_finalizers(obj, finalizers))

    def delete(self, kind: str, namespace: str, name: str, uid: str, version: str = "") -> None:
        obj = self.server.get(kind, namespace, name) or {"kind": kind, "metadata": {"name": name}}
        self._write("delete", obj, lambda: self.server.delete(kind, namespace, name, uid, version))

    def _write(self, verb: str, obj: Object, action: Callable[[], Any]) -> Any:
        if obj["kind"] == "Event":
            return action()
        self.tried += 1
        fault = self.plan.fault if self.tried == self.plan.at else ""
        _fail_before(fault)
        before = self.server.version
        answer = action()
        if self.server.version != before:
            self.changes.append((f"{verb} {obj['kind']}/{obj['metadata']['name']}", _owner(obj)))
        if fault == "after":
            raise Stopped(verb)
        if fault == "timeout":
            raise TimeoutError("no answer came")
        return answer


def _fail_before(fault: str) -> None:
    if fault == "before":
        raise Stopped("before a write")
    if fault == "conflict":
        raise Conflict(409, "Conflict", "the object has been modified")
    if fault == "throttled":
        raise ApiError(429, "TooManyRequests", "the server is busy")
    if fault == "error":
        raise ApiError(500, "InternalError", "etcdserver: leader changed")


def _owner(obj: Object) -> str:
    references = obj["metadata"].get("ownerReferences") or [obj["metadata"]]
    return str(references[0].get("uid", ""))
