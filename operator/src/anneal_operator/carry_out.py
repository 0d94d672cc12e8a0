"""A decision becomes writes, in an order that a stop at any point leaves whole.

What was read may be old. So a child that is to be made is looked for live before anything is written, unless this very
status is the first to claim it; the status is guarded by its resourceVersion, and a decision without a status is
carried out only if the resource is still the same.

The status comes first: a claim (a new attempt) is stored before anything of it is made, and a status that could not be
written, because somebody was quicker, stops everything after it. Then Events, so that nothing is told that was not so.
They are only handed over: nothing waits for them, and one that is refused stops nothing.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from anneal_api.base import GROUP
from anneal_operator import objects, times
from anneal_operator.cluster.errors import AlreadyExists, ApiError, Conflict, NotFound
from anneal_operator.cluster.interface import Cluster
from anneal_operator.decision import EVENT_LIMIT, Decision, Event, Object
from anneal_operator.observed import Refusal, owned

log = logging.getLogger(__name__)
Tell = Callable[[Object], object]
"""Takes an Event; raises nothing."""
REFUSED = (400, 403, 422)
"""Answers of admission: a quota, a policy, a webhook or a missing right is against an object."""


class LookAgain(Exception):
    """The world has moved on; decide anew soon."""


class NameTakenError(Exception):
    """An object that is somebody else's has the name of a child."""


class ChildRefusedError(ApiError):
    """The API server will not have a child."""

    def __init__(self, obj: Object, error: ApiError) -> None:
        super().__init__(error.status, error.reason, error.message)
        self.refusal = Refusal(obj["kind"], obj["metadata"]["name"], error.message)


@dataclass
class View:
    """The resource a decision was made on, and whether it is known to be the newest."""

    cluster: Cluster
    resource: Object
    newest: bool = False

    def confirm(self) -> None:
        """Raise LookAgain unless the resource is still as it was read; a guarded write has shown it already."""
        if not self.newest:
            live = _live(self.cluster, self.resource)
            if live is None or _version(live) != _version(self.resource):
                raise LookAgain("it has changed since it was read")
            self.newest = True


def carry_out(cluster: Cluster, resource: Object, decision: Decision, now: datetime, tell: Tell) -> None:
    """Write what `decision` says about `resource`."""
    view = View(cluster, resource)
    try:
        for obj in [] if decision.claims else decision.create:
            _look_for(cluster, resource, obj)
        if decision.finalizers is not None and not _releases(resource, decision.finalizers):
            view = View(cluster, cluster.set_finalizers(resource, decision.finalizers), newest=True)
        _write(view, decision, lambda event: _tell(resource, event, times.stamp(now), tell))
        if decision.finalizers is not None and _releases(resource, decision.finalizers):
            _release(cluster, resource, decision.finalizers)
    except (Conflict, NotFound, AlreadyExists) as error:
        raise LookAgain(str(error)) from error


def _releases(resource: Object, finalizers: list[str]) -> bool:
    return len(finalizers) < len(resource["metadata"].get("finalizers", []))


def _release(cluster: Cluster, resource: Object, finalizers: list[str]) -> None:
    """Let the resource go, last of all; what was written about it before has changed its version."""
    latest = _live(cluster, resource)
    if latest and latest["metadata"]["uid"] == resource["metadata"]["uid"]:
        cluster.set_finalizers(latest, finalizers)


def _write(view: View, decision: Decision, tell: Callable[[Event], object]) -> None:
    cluster, resource = view.cluster, view.resource
    if decision.status is not None:
        cluster.update_status({**resource, "status": decision.status})
        view.newest = True
    for event in decision.events:
        view.confirm()
        tell(event)
    for gone in decision.delete:
        view.confirm()
        cluster.delete(gone.kind, gone.namespace, gone.name, gone.uid, gone.version)
    for obj in decision.apply:
        _ensure(view, obj)
    for obj in decision.create:
        view.confirm()
        _put(cluster.create, obj)


def _put(write: Callable[[Object], Object], obj: Object) -> None:
    """Write a child; raises ChildRefusedError when it is against the rules of the cluster."""
    try:
        write(obj)
    except ApiError as error:
        if error.status in REFUSED:
            raise ChildRefusedError(obj, error) from error
        raise


def _tell(resource: Object, event: Event, now_text: str, tell: Tell) -> None:
    meta = resource["metadata"]
    log.info(
        "%s %s/%s: %s: %s", resource["kind"], meta["namespace"], meta["name"], event.reason, event.message
    )
    tell(event_object(resource, event, now_text))


def event_object(resource: Object, event: Event, now_text: str) -> Object:
    """Return the Event; its name follows from what it says, so it is told once."""
    meta = resource["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name'][:200]}.{event.token}", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": resource["apiVersion"],
            "kind": resource["kind"],
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
        },
        "type": "Warning" if event.warning else "Normal",
        "reason": event.reason,
        "message": event.message[:EVENT_LIMIT],
        "source": {"component": GROUP},
        "firstTimestamp": now_text,
        "lastTimestamp": now_text,
        "count": 1,
    }


def _look_for(cluster: Cluster, resource: Object, obj: Object) -> None:
    """Make sure that a child is not there; one that is, and was not seen, has lost its labels or its owner."""
    live = _live(cluster, obj)
    if live is None:
        return
    if "deletionTimestamp" in live["metadata"]:
        raise LookAgain(f"{obj['kind']} {obj['metadata']['name']} is still being deleted")
    wanted = {name: obj["metadata"][name] for name in ("name", "namespace", "labels", "ownerReferences")}
    if _controlled(live):
        _own_or_raise(resource, live)
    if not objects.covers(live["metadata"], wanted):
        # Its name carries a hash of this resource's UID: nobody else can have made it.
        cluster.apply({"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": wanted})
    raise LookAgain(f"{obj['kind']} {obj['metadata']['name']} exists already")


def _controlled(obj: Object) -> bool:
    return any(ref.get("controller") for ref in obj["metadata"].get("ownerReferences", []))


def _ensure(view: View, obj: Object) -> None:
    """Make or correct a child that may change; one that is as it should be costs a read, not a write."""
    live = _live(view.cluster, obj)
    if live is not None:
        _own_or_raise(view.resource, live)
        if objects.covers(live, obj):
            return
    view.confirm()
    _put(view.cluster.apply, obj)


def _version(obj: Object) -> str:
    return str(obj["metadata"]["resourceVersion"])


def _live(cluster: Cluster, obj: Object) -> Object | None:
    return cluster.get(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])


def _own_or_raise(resource: Object, live: Object) -> None:
    if not owned(live, resource["metadata"]["uid"]):
        meta = live["metadata"]
        raise NameTakenError(
            f"{live['kind']} {meta['name']} exists in namespace {meta['namespace']} and belongs to somebody else; "
            f"remove or rename it, or give this resource another name"
        )
