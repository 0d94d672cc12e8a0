"""A decision becomes writes, in an order that a stop at any point leaves whole.

Events and status come first: a claim (a new attempt) is stored before anything of it is made, and a status that
could not be written, because somebody was quicker, stops everything after it.
"""

import logging
from datetime import datetime

from anneal_api.base import GROUP
from anneal_operator import times
from anneal_operator.cluster.errors import AlreadyExists, Conflict, NotFound
from anneal_operator.cluster.interface import Cluster
from anneal_operator.decision import Decision, Event, Object
from anneal_operator.observed import owned

log = logging.getLogger(__name__)


class LookAgain(Exception):
    """The world has moved on; decide anew soon."""


class NameTakenError(Exception):
    """An object that is somebody else's has the name of a child."""


def carry_out(cluster: Cluster, resource: Object, decision: Decision, now: datetime) -> None:
    """Write what `decision` says about `resource`."""
    held = resource["metadata"].get("finalizers", [])
    adds = decision.finalizers is not None and len(decision.finalizers) > len(held)
    try:
        if adds and decision.finalizers is not None:
            resource = cluster.set_finalizers(resource, decision.finalizers)
        _write(cluster, resource, decision, times.stamp(now))
        if decision.finalizers is not None and not adds:
            latest = cluster.get(
                resource["kind"], resource["metadata"]["namespace"], resource["metadata"]["name"]
            )
            if latest and latest["metadata"]["uid"] == resource["metadata"]["uid"]:
                cluster.set_finalizers(latest, decision.finalizers)
    except (Conflict, NotFound) as error:
        raise LookAgain(str(error)) from error


def _write(cluster: Cluster, resource: Object, decision: Decision, now_text: str) -> None:
    for event in decision.events:
        _tell(cluster, resource, event, now_text)
    if decision.status is not None:
        cluster.update_status({**resource, "status": decision.status})
    for gone in decision.delete:
        cluster.delete(gone.kind, gone.namespace, gone.name, gone.uid)
    for obj in decision.apply:
        _ensure(cluster, resource, obj)
    for obj in decision.create:
        _create(cluster, resource, obj)


def _tell(cluster: Cluster, resource: Object, event: Event, now_text: str) -> None:
    meta = resource["metadata"]
    log.info(
        "%s %s/%s: %s: %s", resource["kind"], meta["namespace"], meta["name"], event.reason, event.message
    )
    try:
        cluster.create(event_object(resource, event, now_text))
    except AlreadyExists:
        return


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
        "message": event.message[:1000],
        "source": {"component": GROUP},
        "firstTimestamp": now_text,
        "lastTimestamp": now_text,
        "count": 1,
    }


def _create(cluster: Cluster, resource: Object, obj: Object) -> None:
    """Make a child; one that is there under its name is it only if it has the same owner."""
    try:
        cluster.create(obj)
        return
    except AlreadyExists:
        live = _live(cluster, obj)
    if live is None or "deletionTimestamp" in live["metadata"]:
        raise LookAgain(f"{obj['kind']} {obj['metadata']['name']} is still being deleted")
    _own_or_raise(resource, live)
    if not covers(live["metadata"].get("labels", {}), obj["metadata"]["labels"]):
        # Somebody has changed the labels by which children are found.
        keep = {name: obj["metadata"][name] for name in ("name", "namespace", "labels")}
        cluster.apply({"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": keep})
    raise LookAgain(f"{obj['kind']} {obj['metadata']['name']} exists already")


def _ensure(cluster: Cluster, resource: Object, obj: Object) -> None:
    """Make or correct a child that may change; one that is as it should be costs a read, not a write."""
    live = _live(cluster, obj)
    if live is not None:
        _own_or_raise(resource, live)
        if covers(live, obj):
            return
    cluster.apply(obj)


def _live(cluster: Cluster, obj: Object) -> Object | None:
    return cluster.get(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])


def _own_or_raise(resource: Object, live: Object) -> None:
    if not owned(live, resource["metadata"]["uid"]):
        meta = live["metadata"]
        raise NameTakenError(
            f"{live['kind']} {meta['name']} exists in namespace {meta['namespace']} and belongs to somebody else; "
            f"remove or rename it, or give this resource another name"
        )


def covers(live: object, wanted: object) -> bool:
    """Return whether `live` has everything `wanted` says; the API server may have added defaults."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(_has(live, name, value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(covers(a, b) for a, b in zip(live, wanted, strict=True))
        )
    return live == wanted


def _has(live: Object, name: str, value: object) -> bool:
    """Compare one field; the API server leaves out what is false or empty."""
    return (name not in live and not value) or covers(live.get(name), value)
