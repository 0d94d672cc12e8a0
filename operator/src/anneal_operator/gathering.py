"""Reading a resource's children: by label, then by owner UID; and what the cluster says of those that are stuck."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import ParamSpec, TypeVar

from anneal_operator import naming, stuck
from anneal_operator.cluster.errors import ApiError
from anneal_operator.cluster.interface import Cluster
from anneal_operator.decision import Object
from anneal_operator.observed import Children, JobView, children

P = ParamSpec("P")
T = TypeVar("T")
NOT_OURS = (403, 404)
"""Not allowed in this scope, or not installed in this cluster."""


def read_children(cluster: Cluster, resource: Object, label: str, *, serving: bool = False) -> Children:
    """Return the children of `resource` as far as they are known."""
    meta = resource["metadata"]
    selector = f"{label}={naming.label_value(meta['name'])}"
    kinds = ["Job", "Pod", "ConfigMap", "Service", *(["Deployment"] if serving else [])]
    found = [cluster.select(kind, meta["namespace"], selector) for kind in kinds]
    return children(meta["uid"], *found)


def optional(read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Return what is read, or None where this operator may not read it or the cluster does not know it."""
    try:
        return read(*args, **kwargs)
    except ApiError as error:
        if error.status not in NOT_OURS:
            raise
        return None


def complain(cluster: Cluster, found: Children, now: datetime) -> Children:
    """Return the children with the newest warning of each Job and pod that does not get on."""
    return replace(found, jobs={name: _heard(cluster, job, now) for name, job in found.jobs.items()})


def _heard(cluster: Cluster, job: JobView, now: datetime) -> JobView:
    if not job.active or job.deleting:
        return job
    if stuck.without_pods(job, now):
        return replace(job, warning=_warning(cluster, job.namespace, job.uid))
    pods = [
        replace(pod, warning=_warning(cluster, job.namespace, pod.uid)) if stuck.slow(pod, now) else pod
        for pod in job.pods
    ]
    return replace(job, pods=pods)


def _warning(cluster: Cluster, namespace: str, uid: str) -> str:
    fields = f"involvedObject.uid={uid},type=Warning"
    found = optional(cluster.select, "Event", namespace, "", fields) or []
    newest = max(found, key=_when, default=None)
    return f"{newest['reason']}: {newest['message']}" if newest else ""


def _when(event: Object) -> str:
    """Return when an event was last seen; the fields of both event APIs are in use."""
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")
