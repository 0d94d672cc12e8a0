"""An API server in memory, faithful where the operator relies on it: resource versions, generations, UID
preconditions, status as a subresource, immutable fields, finalizers, background garbage collection, apply."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

from anneal_operator.cluster.errors import AlreadyExists, ApiError, Conflict, NotFound

Object = dict[str, Any]
EPOCH = "2026-01-01T00:00:00Z"


class Stopped(BaseException):
    """The operator's process ends here; not an Exception, so that no handler keeps it alive."""


class ApiServer:
    """Speaks what `anneal_operator.cluster.interface.Cluster` says."""

    def __init__(self, clock: Callable[[], str] = lambda: EPOCH) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.applied: dict[tuple[str, str, str], Object] = {}
        self.writes: list[str] = []
        self.stop_before: int | None = None
        self.stop_after: int | None = None
        self.fail_with: dict[tuple[str, str], ApiError] = {}
        self._clock = clock
        self._version = itertools.count(1)
        self._uid = itertools.count(1)

    # What the operator calls.

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        found = self.objects.get((kind, namespace, name))
        return copy.deepcopy(found) if found else None

    def select(self, kind: str, namespace: str | None, selector: str = "") -> list[Object]:
        wanted = dict(part.split("=") for part in selector.split(",") if part)
        found = [
            o
            for (k, n, _), o in self.objects.items()
            if k == kind
            and namespace in (None, n)
            and wanted.items() <= o["metadata"].get("labels", {}).items()
        ]
        # The order of a list means nothing; reversed, nobody comes to rely on it.
        return copy.deepcopy(found[::-1])

    def create(self, obj: Object) -> Object:
        return self._write(f"create {self._text(obj)}", lambda: self._create(obj))

    def apply(self, obj: Object) -> Object:
        return self._write(f"apply {self._text(obj)}", lambda: self._apply(obj))

    def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        self._write(f"delete {kind}/{name}", lambda: self._delete(kind, namespace, name, uid))

    def update_status(self, obj: Object) -> Object:
        def write() -> Object:
            live = self._guarded(obj)
            if live.get("status") != obj["status"]:
                live["status"] = copy.deepcopy(obj["status"])
                self._touch(live)
            return copy.deepcopy(live)

        return self._write(f"status {self._text(obj)}", write)

    def set_finalizers(self, obj: Object, finalizers: list[str]) -> Object:
        def write() -> Object:
            live = self._guarded(obj)
            live["metadata"]["finalizers"] = list(finalizers)
            self._touch(live)
            self._finalize(live)
            return copy.deepcopy(live)

        return self._write(f"finalizers {self._text(obj)}", write)

    # What a user or a node does; not counted, never stopped.

    def put(self, obj: Object) -> Object:
        """Create, or change spec, labels and annotations."""
        key = self._key(obj)
        live = self.objects.get(key)
        if live is None:
            return self._create(obj)
        if live.get("spec") != obj.get("spec"):
            live["metadata"]["generation"] += 1
        for field in ("spec", "data"):
            if field in obj:
                live[field] = copy.deepcopy(obj[field])
        for field in ("labels", "annotations"):
            if field in obj["metadata"]:
                live["metadata"][field] = dict(obj["metadata"][field])
        self._touch(live)
        return copy.deepcopy(live)

    def set_status(self, kind: str, namespace: str, name: str, status: Object) -> None:
        live = self.objects[(kind, namespace, name)]
        live["status"] = copy.deepcopy(status)
        self._touch(live)

    def remove(self, kind: str, namespace: str, name: str) -> None:
        live = self.objects.get((kind, namespace, name))
        if live:
            self._delete(kind, namespace, name, live["metadata"]["uid"])

    def names(self, kind: str) -> list[str]:
        return sorted(name for k, _, name in self.objects if k == kind)

    # Inside.

    def _write(self, what: str, action: Callable[[], Any]) -> Any:
        number = len(self.writes) + 1
        if self.stop_before == number:
            self.stop_before = None
            raise Stopped(what)
        verb, kind = what.split("/")[0].split(" ")
        if (verb, kind) in self.fail_with:
            raise self.fail_with[(verb, kind)]
        answer = action()
        self.writes.append(what)
        if self.stop_after == number:
            self.stop_after = None
            raise Stopped(what)
        return answer

    @staticmethod
    def _key(obj: Object) -> tuple[str, str, str]:
        return obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"]

    @staticmethod
    def _text(obj: Object) -> str:
        return f"{obj['kind']}/{obj['metadata']['name']}"

    def _touch(self, obj: Object) -> None:
        obj["metadata"]["resourceVersion"] = str(next(self._version))

    def _create(self, obj: Object) -> Object:
        key = self._key(obj)
        if key in self.objects:
            raise AlreadyExists(409, "AlreadyExists", f"{key} exists")
        assert len(key[2]) <= 253
        made = copy.deepcopy(obj)
        made["metadata"] |= {
            "uid": f"uid-{next(self._uid):06d}",
            "generation": 1,
            "creationTimestamp": self._clock(),
        }
        self.objects[key] = made
        self._touch(made)
        return copy.deepcopy(made)

    def _apply(self, obj: Object) -> Object:
        key = self._key(obj)
        if key not in self.objects:
            self.applied[key] = copy.deepcopy(obj)
            return self._create(obj)
        live = self.objects[key]
        before = copy.deepcopy(live)
        dropped = _dropped(self.applied.get(key, {}), obj)
        for path in dropped:
            _remove_path(live, path)
        _merge(live, copy.deepcopy(obj))
        self.applied[key] = copy.deepcopy(obj)
        if live.get("immutable") and live.get("data") != before.get("data"):
            self.objects[key] = before
            raise ApiError(422, "Invalid", f"{key} is immutable")
        if live != before:
            if live.get("spec") != before.get("spec"):
                live["metadata"]["generation"] += 1
            self._touch(live)
        return copy.deepcopy(live)

    def _guarded(self, obj: Object) -> Object:
        live = self.objects.get(self._key(obj))
        if live is None:
            raise NotFound(404, "NotFound", self._text(obj))
        if live["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
            raise Conflict(409, "Conflict", self._text(obj))
        return live

    def _delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        live = self.objects.get((kind, namespace, name))
        if live is None:
            return
        if live["metadata"]["uid"] != uid:
            raise Conflict(409, "Conflict", f"{kind}/{name} has another UID")
        if "deletionTimestamp" not in live["metadata"]:
            live["metadata"]["deletionTimestamp"] = self._clock()
            self._touch(live)
        self._finalize(live)

    def _finalize(self, obj: Object) -> None:
        if "deletionTimestamp" not in obj["metadata"] or obj["metadata"].get("finalizers"):
            return
        del self.objects[self._key(obj)]
        uid = obj["metadata"]["uid"]
        for child in list(self.objects.values()):
            if any(ref["uid"] == uid for ref in child["metadata"].get("ownerReferences", [])):
                self.remove(*self._key(child))


def _merge(live: Object, wanted: Object) -> None:
    for name, value in wanted.items():
        if isinstance(value, dict) and isinstance(live.get(name), dict):
            _merge(live[name], value)
        else:
            live[name] = value


def _dropped(old: Object, new: Object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, value in old.items():
        if name not in new:
            found.append((*path, name))
        elif isinstance(value, dict) and isinstance(new[name], dict):
            found += _dropped(value, new[name], (*path, name))
    return found


def _remove_path(live: Object, path: tuple[str, ...]) -> None:
    for name in path[:-1]:
        live = live.get(name, {})
    live.pop(path[-1], None)
