"""A cluster whose resources and children are read from memory: what the watch streams have told, and what has been
written since, stripped to what is decided by.

It may be behind. Whoever decides by it looks live for what is to be made, and guards every other write.
"""

import threading
from collections.abc import Callable, Collection
from typing import NamedTuple

from anneal_operator.cluster.errors import Conflict, NotFound
from anneal_operator.cluster.interface import Cluster
from anneal_operator.decision import Object

Owner = tuple[str, str, str]
"""Kind of the child, namespace, and the label that names its owner."""
Place = tuple[str, str, str]
"""Kind, namespace and name."""
Scope = tuple[str, str | None]
"""Kind, and the namespace of the stream; None for a stream of all namespaces."""
RESOURCES = ("FineTuneJob", "ModelDeployment")
FINISHED = ("Complete", "Failed")
"""Phases of resources that are read live: they are looked at once in a while, and there may be very many of them."""


class Resource(NamedTuple):
    """What is known of a resource."""

    uid: str
    version: int
    held: Object | None
    """None when it is finished, or when what was known has proved old: it is read live."""


class CachedCluster(Cluster):
    """Passes everything on but lists by an owner's label; may be used from many threads."""

    def __init__(self, cluster: Cluster, labels: Collection[str]) -> None:
        self._cluster = cluster
        self._labels = labels
        self._lock = threading.Lock()
        self._held: dict[Place, Object] = {}
        self._owned: dict[Owner, set[Place]] = {}
        self._resources: dict[Place, Resource] = {}
        self._listed: set[Scope] = set()
        self._seen: dict[Scope, set[str]] = {}

    # What the streams tell.

    def hear(self, scope: Scope, type_: str | None, obj: Object) -> None:
        """Remember an object, or that it has gone; a `type_` of None says that it is part of a list."""
        with self._lock:
            if type_ is None:
                self._seen.setdefault(scope, set()).add(obj["metadata"]["uid"])
            if scope[0] in RESOURCES:
                self._note(_place(scope[0], obj), None if type_ == "DELETED" else obj)
            elif type_ == "DELETED":
                self._forget(scope[0], obj)
            else:
                self._keep(scope[0], obj)

    def listed(self, scope: Scope) -> None:
        """A list is complete: what was not in it is gone, and from now on memory knows all there is."""
        with self._lock:
            there = self._seen.pop(scope, set())
            gone = [p for p, known in self._resources.items() if _within(p, scope) and known.uid not in there]
            for place in gone:
                del self._resources[place]
            if scope in self._listed:
                held = [obj for place, obj in self._held.items() if _within(place, scope)]
                for obj in held:
                    if obj["metadata"]["uid"] not in there:
                        self._forget(scope[0], obj)
            self._listed.add(scope)

    def _note(self, place: Place, obj: Object | None) -> None:
        """Remember the newest of a resource; what is finished only by its version, so that nothing older comes back."""
        if obj is None:
            self._resources.pop(place, None)
            return
        old, version = self._resources.get(place), _version(obj)
        if old is None or old.version < version:
            over = obj.get("status", {}).get("phase") in FINISHED
            held = None if over else {**obj, "kind": place[0], "metadata": _meta(obj)}
            self._resources[place] = Resource(obj["metadata"]["uid"], version, held)

    def _keep(self, kind: str, obj: Object) -> None:
        place = _place(kind, obj)
        old = self._held.get(place)
        if old is not None and _version(old) >= _version(obj):
            return
        if old is not None:
            self._forget(kind, old)
        owners = self._owners(kind, obj)
        if owners:
            self._held[place] = stripped(kind, obj)
        for owner in owners:
            self._owned.setdefault(owner, set()).add(place)

    def _forget(self, kind: str, obj: Object) -> None:
        place = _place(kind, obj)
        held = self._held.get(place)
        if held is None or held["metadata"]["uid"] != obj["metadata"]["uid"]:
            return
        del self._held[place]
        for owner in self._owners(kind, held):
            self._owned[owner].discard(place)
            if not self._owned[owner]:
                del self._owned[owner]

    def _owners(self, kind: str, obj: Object) -> list[Owner]:
        meta = obj["metadata"]
        labels = meta.get("labels", {})
        return [
            (kind, meta["namespace"], f"{name}={labels[name]}") for name in self._labels if name in labels
        ]

    # What is asked.

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        found, place = self._cluster.get(kind, namespace, name), (kind, namespace, name)
        if kind in RESOURCES:
            with self._lock:
                if found is None or place in self._resources:
                    self._note(place, found)
        return found

    def recall(self, kind: str, namespace: str, name: str) -> Object | None:
        with self._lock:
            known = self._resources.get((kind, namespace, name))
        return known.held if known and known.held else self.get(kind, namespace, name)

    def select(self, kind: str, namespace: str | None, selector: str = "", fields: str = "") -> list[Object]:
        with self._lock:
            known = (kind, None) in self._listed or (kind, namespace) in self._listed
            if known and namespace and not fields and selector.partition("=")[0] in self._labels:
                return [self._held[place] for place in self._owned.get((kind, namespace, selector), ())]
        return self._cluster.select(kind, namespace, selector, fields)

    def create(self, obj: Object) -> Object:
        return self._written(self._cluster.create(obj))

    def apply(self, obj: Object) -> Object:
        return self._written(self._cluster.apply(obj))

    def delete(self, kind: str, namespace: str, name: str, uid: str, version: str = "") -> None:
        self._cluster.delete(kind, namespace, name, uid, version)

    def update_status(self, obj: Object) -> Object:
        return self._changed(obj, lambda: self._cluster.update_status(obj))

    def set_finalizers(self, obj: Object, finalizers: list[str]) -> Object:
        return self._changed(obj, lambda: self._cluster.set_finalizers(obj, finalizers))

    def _changed(self, obj: Object, write: Callable[[], Object]) -> Object:
        """Know of a resource's change at once; of one that was refused because memory is behind, forget what it was."""
        place = _place(obj["kind"], obj)
        try:
            made = write()
        except (Conflict, NotFound):
            with self._lock:
                if known := self._resources.get(place):
                    self._resources[place] = known._replace(held=None)
            raise
        with self._lock:
            # One that has gone meanwhile does not come back.
            if place in self._resources:
                self._note(place, made)
        return made

    def _written(self, obj: Object) -> Object:
        """Know of a write at once, not when its event comes."""
        with self._lock:
            if any(kind == obj["kind"] for kind, _ in self._listed):
                self._keep(obj["kind"], obj)
        return obj


def stripped(kind: str, obj: Object) -> Object:
    """Return a child without what no decision looks at."""
    made = {**obj, "kind": kind, "metadata": _meta(obj)}
    if kind == "Job":
        made["spec"] = {name: value for name, value in obj["spec"].items() if name != "template"}
    elif kind == "Pod":
        made["spec"] = {name: value for name, value in obj.get("spec", {}).items() if name == "nodeName"}
    return made


def _meta(obj: Object) -> Object:
    return {name: value for name, value in obj["metadata"].items() if name != "managedFields"}


def _place(kind: str, obj: Object) -> Place:
    return kind, obj["metadata"]["namespace"], obj["metadata"]["name"]


def _within(place: Place, scope: Scope) -> bool:
    return place[0] == scope[0] and scope[1] in (None, place[1])


def _version(obj: Object) -> int:
    """Return a resourceVersion as the number it is; newer is larger, as the API has promised since 1.35."""
    return int(obj["metadata"]["resourceVersion"])
