"""What is counted when a status has been written: what it cost; of a job its attempts' ends by cause, and goodput."""

from datetime import datetime

from anneal_operator.decision import Object
from anneal_operator.finetunejob.goodput import goodput
from anneal_operator.finetunejob.observe import stored_status
from anneal_operator.metrics import Metrics

COST, GOODPUT = "anneal_accelerator_seconds_total", "anneal_goodput_ratio"


def follow(metrics: Metrics, resource: Object, status: Object, now: datetime) -> None:
    """Count what a resource's `status` has beyond the one it had before."""
    meta = resource["metadata"]
    place = {"kind": resource["kind"], "namespace": meta["namespace"], "name": meta["name"]}
    held = _held(status) - _held(resource.get("status", {}))
    if held > 0:
        metrics.count(COST, held, **place)
    if resource["kind"] == "FineTuneJob":
        _attempts_ended(metrics, resource, status)
        share = goodput(stored_status(status), now)
        if share is not None:
            metrics.tell(GOODPUT, share, namespace=meta["namespace"], name=meta["name"])


def forget(metrics: Metrics, kind: str, namespace: str, name: str) -> None:
    """Drop the figures of a resource that is gone."""
    metrics.forget(COST, kind=kind, namespace=namespace, name=name)
    if kind == "FineTuneJob":
        metrics.forget(GOODPUT, namespace=namespace, name=name)


def _attempts_ended(metrics: Metrics, resource: Object, status: Object) -> None:
    before = {attempt["number"] for attempt in _attempts(resource.get("status", {})) if attempt.get("ended")}
    for attempt in _attempts(status):
        if attempt.get("ended") and attempt["number"] not in before and attempt.get("cause"):
            metrics.count("anneal_attempt_ends_total", cause=attempt["cause"])


def _attempts(status: Object) -> list[Object]:
    return list(status.get("attempts", []))


def _held(status: Object) -> int:
    return int(status.get("acceleratorSeconds", 0))
