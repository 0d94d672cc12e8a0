"""An API server in memory. Faithful where controllers rely on it: resource versions and writes that change nothing,
generations, conflicts, preconditions, status as a subresource, field ownership, defaults and schemas, finalizers,
garbage collection in the background, lists and watches with bookmarks and 410.

tests/cluster/test_api_server_model.py holds it against a real one. `ApiServer` speaks what
`anneal_operator.cluster.interface.Cluster` says; the other verbs are there for the tests.
"""

import itertools
import marshal
from collections.abc import Callable
from typing import Any, NamedTuple

import admission
import managed_fields as owners

from anneal_operator.cluster.errors import AlreadyExists, ApiError, Conflict, NotFound

Object = dict[str, Any]
Key = tuple[str, str, str]
EPOCH = "2026-01-01T00:00:00Z"
OPERATOR = "anneal"
READ_ONLY = (
    "uid",
    "creationTimestamp",
    "generation",
    "resourceVersion",
    "deletionTimestamp",
    "managedFields",
)
GUARDED = frozenset({*admission.CUSTOM, "Lease"})
"""Kinds that are not replaced without a resourceVersion."""


class Stopped(BaseException):
    """The operator's process ends here; not an Exception, so that no handler keeps it alive."""


class Change(NamedTuple):
    """One write: what an object was and became; None before it was made and after it went."""

    version: int
    before: Object | None
    after: Object | None

    @property
    def key(self) -> Key:
        return key_of(self.after or self.before or {})


def copied(value: Any) -> Any:
    """Return a deep copy of plain JSON data."""
    return marshal.loads(marshal.dumps(value))


def key_of(obj: Object) -> Key:
    """Return where an object is kept."""
    return obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"]


def matches(obj: Object | None, selector: str) -> bool:
    """Return whether an object is there and a label selector of `a=b`, `a!=b`, `a` and `!a` selects it."""
    if obj is None:
        return False
    labels = obj["metadata"].get("labels") or {}
    return all(_matches_one(labels, part) for part in selector.split(",") if part)


def has_fields(obj: Object, selector: str) -> bool:
    """Return whether a field selector of `path.to.field=value` selects an object."""
    for part in filter(None, selector.split(",")):
        path, value = part.split("=")
        held: Any = obj
        for name in path.split("."):
            held = held.get(name, {})
        if str(held or "") != value:
            return False
    return True


def _matches_one(labels: dict[str, str], part: str) -> bool:
    if "!=" in part:
        name, value = part.split("!=")
        return labels.get(name) != value
    if "=" in part:
        name, value = part.replace("==", "=").split("=")
        return labels.get(name) == value
    return part[1:] not in labels if part.startswith("!") else part in labels


class ApiServer:
    """All objects, and every change there was."""

    def __init__(self, clock: Callable[[], str] = lambda: EPOCH) -> None:
        self.objects: dict[Key, Object] = {}
        self.managers: dict[Key, owners.Managers] = {}
        self.history: list[Change] = []
        self.compacted = 0
        self.version = 0
        self.writes: list[str] = []
        self.stop_before: int | None = None
        self.stop_after: int | None = None
        self.fail_with: dict[tuple[str, str], ApiError] = {}
        self._clock = clock
        self._uid = itertools.count(1)

    # Reads.

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        held = self.objects.get((kind, namespace, name))
        return dict(copied(held)) if held else None

    def recall(self, kind: str, namespace: str, name: str) -> Object | None:
        return self.get(kind, namespace, name)

    def select(self, kind: str, namespace: str | None, selector: str = "", fields: str = "") -> list[Object]:
        # The order of a list means nothing; reversed, nobody comes to rely on it.
        found = self.listed(kind, namespace, selector)[0][::-1]
        return [obj for obj in found if has_fields(obj, fields)]

    def listed(self, kind: str, namespace: str | None, selector: str = "") -> tuple[list[Object], str]:
        """Return the objects in order of their names, and the resourceVersion of the whole list."""
        found = (o for k, o in sorted(self.objects.items()) if k[0] == kind and namespace in (None, k[1]))
        return [copied(o) for o in found if matches(o, selector)], str(self.version)

    def watch(
        self, kind: str, namespace: str | None, since: str, selector: str = "", *, bookmarks: bool = False
    ) -> list[Object]:
        """Return all events after `since`; raises 410 when they are no longer known."""
        if int(since) < self.compacted:
            raise ApiError(410, "Expired", f"too old resource version: {since} ({self.compacted})")
        changes = (c for c in self.history if c.version > int(since) and c.key[0] == kind)
        events = [_event(c, selector) for c in changes if namespace in (None, c.key[1])]
        mark = {"kind": kind, "metadata": {"resourceVersion": str(self.version)}}
        return [copied(e) for e in events if e] + (
            [{"type": "BOOKMARK", "object": mark}] if bookmarks else []
        )

    def compact(self) -> None:
        """Forget all changes so far."""
        self.compacted = self.version
        self.history = []

    # What the operator writes.

    def create(self, obj: Object, manager: str = OPERATOR) -> Object:
        return self._write(f"create {_text(obj)}", lambda: self._create(obj, manager))

    def apply(self, obj: Object, manager: str = OPERATOR, *, force: bool = True) -> Object:
        return self._write(f"apply {_text(obj)}", lambda: self._apply(obj, manager, force))

    def delete(self, kind: str, namespace: str, name: str, uid: str, version: str = "") -> None:
        key = (kind, namespace, name)
        self._write(f"delete {kind}/{name}", lambda: self._delete(key, uid, version, quiet=True))

    def update_status(self, obj: Object, manager: str = OPERATOR) -> Object:
        return self._write(f"status {_text(obj)}", lambda: self._replace(obj, manager, "status"))

    def replace(self, obj: Object, manager: str = OPERATOR) -> Object:
        return self._write(f"replace {_text(obj)}", lambda: self._replace(obj, manager))

    def set_finalizers(self, obj: Object, finalizers: list[str]) -> Object:
        guard = {"resourceVersion": obj["metadata"]["resourceVersion"], "finalizers": finalizers}
        return self._write(
            f"finalizers {_text(obj)}", lambda: self._patch(key_of(obj), {"metadata": guard}, OPERATOR)
        )

    # What a user, a node or a controller does; not counted, never stopped.

    def put(self, obj: Object) -> Object:
        """Create, or change spec, data, labels and annotations."""
        live = copied(self.objects.get(key_of(obj)))
        if live is None:
            return self._create(obj, "user")
        live |= {field: obj[field] for field in ("spec", "data") if field in obj}
        live["metadata"] |= {f: obj["metadata"][f] for f in ("labels", "annotations") if f in obj["metadata"]}
        return self._replace(live, "user")

    def set_status(self, kind: str, namespace: str, name: str, status: Object) -> None:
        live = copied(self.objects[kind, namespace, name])
        self._replace({**live, "status": status}, "node", "status")

    def replace_by_user(self, obj: Object) -> Object:
        """Replace an object as a user does, with whatever is in it."""
        return self._replace(obj, "user")

    def patch(self, key: Key, body: Object, manager: str = "user") -> Object:
        """Merge-patch an object."""
        return self._patch(key, body, manager)

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object if it is there."""
        self._delete((kind, namespace, name), None, quiet=True)

    def collect(self) -> None:
        """Remove what none of its owners is left of, as the garbage collector does some time later."""
        while True:
            uids = {obj["metadata"]["uid"] for obj in self.objects.values()}
            # What waits for its finalizers has been asked to go already.
            held = {
                key: obj for key, obj in self.objects.items() if "deletionTimestamp" not in obj["metadata"]
            }
            orphans = [key for key, obj in held.items() if _orphaned(obj, uids)]
            if not orphans:
                return
            for key in orphans:
                self._delete(key, None)

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
            raise self.fail_with[verb, kind]
        answer = action()
        self.writes.append(what)
        if self.stop_after == number:
            self.stop_after = None
            raise Stopped(what)
        return answer

    def managed_fields(self, key: Key) -> list[Object]:
        """Return metadata.managedFields; kept apart from the objects, which nobody here reads for it."""
        return owners.to_wire(self.managers[key], self._clock())

    def _create(self, obj: Object, manager: str) -> Object:
        key = key_of(obj)
        if key in self.objects:
            raise AlreadyExists(409, "AlreadyExists", f"{key} exists")
        if "resourceVersion" in obj["metadata"]:
            raise ApiError(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        made = admission.admit(self._born(obj), None)
        writer = owners.Manager(manager, "Update", obj["apiVersion"])
        return self._store(None, made, owners.after_update({}, writer, _changes(_empty(made), made)))

    def _born(self, obj: Object) -> Object:
        """Return a new object with what the server itself writes; a status is not made by a create."""
        made = copied(obj)
        if made["kind"] in admission.WITH_STATUS - {"Pod"}:
            made.pop("status", None)
        uid = f"uid-{next(self._uid):06d}"
        made["metadata"] |= {"uid": uid, "creationTimestamp": self._clock()}
        if made["kind"] in admission.COUNTED:
            made["metadata"]["generation"] = 1
        return made

    def _apply(self, obj: Object, manager: str, force: bool) -> Object:
        live, config = self.objects.get(key_of(obj)), _without_status(copied(obj))
        writer = owners.Manager(manager, "Apply", obj["apiVersion"])
        rules = admission.shape(obj["kind"])
        if live is None:
            named = owners.of_applied(config, rules)
            return self._store(None, admission.admit(self._born(config), None), {writer: named})
        _check_guard(live, config)
        config["metadata"] = {n: v for n, v in config["metadata"].items() if n not in READ_ONLY}
        done = owners.apply(live, config, self._owners(obj), writer, rules)
        if done.conflicts and not force:
            raise Conflict(409, "Conflict", "; ".join(owners.of_conflicts(done.conflicts)))
        return self._store(live, admission.admit(done.obj, live), done.managers)

    def _replace(self, obj: Object, manager: str, subresource: str = "") -> Object:
        live = self.objects.get(key_of(obj))
        if live is None:
            raise NotFound(404, "NotFound", _text(obj))
        if "resourceVersion" not in obj["metadata"] and obj["kind"] in GUARDED:
            raise admission.invalid("metadata.resourceVersion: must be specified for an update")
        _check_guard(live, obj)
        made = admission.admit(_merged(live, copied(obj), subresource), live)
        writer = owners.Manager(manager, "Update", live["apiVersion"], subresource)
        return self._store(live, made, owners.after_update(self._owners(obj), writer, _changes(live, made)))

    def _patch(self, key: Key, body: Object, manager: str) -> Object:
        live = self.objects.get(key)
        if live is None:
            raise NotFound(404, "NotFound", f"{key}")
        return self._replace(_merge_patch(copied(live), copied(body)), manager)

    def _owners(self, obj: Object) -> owners.Managers:
        return self.managers.get(key_of(obj), {})

    def _store(self, live: Object | None, made: Object, managers: owners.Managers) -> Object:
        """Keep an object, unless nothing about it has changed."""
        if live is not None and made == live and managers == self._owners(live):
            return dict(copied(live))
        if live is not None and made["kind"] in admission.COUNTED and made.get("spec") != live.get("spec"):
            made["metadata"]["generation"] += 1
        if live is not None and _released(made):
            self._drop(live)
        else:
            self._keep(live, made, managers)
        return dict(copied(made))

    def _keep(self, live: Object | None, made: Object, managers: owners.Managers) -> None:
        self.objects[key_of(made)] = made
        self.managers[key_of(made)] = managers
        self._record(live, made)

    def _record(self, before: Object | None, after: Object | None) -> None:
        self.version += 1
        if after is not None:
            after["metadata"]["resourceVersion"] = str(self.version)
        self.history.append(Change(self.version, before, copied(after)))

    def _delete(self, key: Key, uid: str | None, version: str = "", *, quiet: bool = False) -> None:
        live = self.objects.get(key)
        if live is None:
            if quiet:
                return
            raise NotFound(404, "NotFound", f"{key}")
        _check_preconditions(live, uid, version)
        if "deletionTimestamp" not in live["metadata"]:
            self._mark(live)

    def _mark(self, live: Object) -> None:
        marked = copied(live)
        meta = marked["metadata"]
        meta["deletionTimestamp"] = self._clock()
        if not meta.get("finalizers"):
            self._drop(live)
            return
        meta["deletionGracePeriodSeconds"] = 0
        if "generation" in meta:
            meta["generation"] += 1
        self._keep(live, marked, self._owners(live))

    def _drop(self, obj: Object) -> None:
        """Remove an object in one write: no watcher sees it without the finalizers that held it."""
        del self.objects[key_of(obj)]
        self.managers.pop(key_of(obj), None)
        self._record(obj, None)


def _text(obj: Object) -> str:
    return f"{obj['kind']}/{obj['metadata']['name']}"


def _released(obj: Object) -> bool:
    """Whether the last finalizer of an object that is being deleted has gone."""
    return "deletionTimestamp" in obj["metadata"] and not obj["metadata"].get("finalizers")


def _without_status(obj: Object) -> Object:
    return {n: v for n, v in obj.items() if n != "status" or obj["kind"] not in admission.WITH_STATUS}


def _empty(made: Object) -> Object:
    """Return what a create is compared with: a kind's empty object, as the server decodes it."""
    typed = {} if made["kind"] in admission.CUSTOM else {"spec": {}} if "spec" in made else {}
    return {"metadata": {}, **typed}


def _changes(old: Object, new: Object) -> owners.Changes:
    return owners.compare(old, new, admission.shape(new["kind"]))


def _check_guard(live: Object, wanted: Object) -> None:
    meta = wanted["metadata"]
    for name in ("resourceVersion", "uid"):
        if name in meta and meta[name] != live["metadata"][name]:
            raise Conflict(409, "Conflict", f"{_text(live)}: {name} is {live['metadata'][name]}")


def _check_preconditions(live: Object, uid: str | None, version: str) -> None:
    for name, wanted in (("uid", uid), ("resourceVersion", version)):
        if wanted and live["metadata"][name] != wanted:
            raise Conflict(409, "Conflict", f"{_text(live)}: precondition: {name} is not {wanted}")


def _merged(live: Object, wanted: Object, subresource: str) -> Object:
    """Return what a write leads to: the status alone, or everything but the status, and never what the server owns."""
    if subresource == "status":
        return {**copied(live), "status": wanted["status"]} if "status" in wanted else copied(live)
    kept = {name: live["metadata"][name] for name in READ_ONLY if name in live["metadata"]}
    made = {**wanted, "metadata": {**wanted["metadata"], **kept}}
    if made["kind"] in admission.WITH_STATUS:
        made.pop("status", None)
        made |= {"status": live["status"]} if "status" in live else {}
    added = set(made["metadata"].get("finalizers") or ()) - set(live["metadata"].get("finalizers") or ())
    if added and "deletionTimestamp" in live["metadata"]:
        raise admission.invalid(f"metadata.finalizers: no new finalizers on what is being deleted: {added}")
    return made


def _merge_patch(live: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict) or not isinstance(live, dict):
        return patch
    for name, value in patch.items():
        if value is None:
            live.pop(name, None)
        else:
            live[name] = _merge_patch(live.get(name, {}) if isinstance(value, dict) else None, value)
    return live


def _orphaned(obj: Object, uids: set[str]) -> bool:
    references = obj["metadata"].get("ownerReferences", [])
    return bool(references) and not any(ref["uid"] in uids for ref in references)


def _event(change: Change, selector: str) -> Object | None:
    """Return a change as a watcher with that selector sees it."""
    before, after = matches(change.before, selector), matches(change.after, selector)
    if not before and not after:
        return None
    if after:
        return {"type": "MODIFIED" if before else "ADDED", "object": change.after}
    seen = copied(change.before)
    seen["metadata"]["resourceVersion"] = str(change.version)
    return {"type": "DELETED", "object": seen}


def as_of(history: list[Change], version: int) -> dict[Key, Object]:
    """Return the objects as they were at a version."""
    found: dict[Key, Object] = {}
    for change in history:
        if change.version > version:
            break
        found.pop(change.key, None)
        if change.after is not None:
            found[change.key] = change.after
    return found
