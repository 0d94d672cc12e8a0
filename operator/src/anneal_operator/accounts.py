"""What is counted when a status has been written: ends of attempts by cause, their cost, and the goodput of the run."""

from datetime import datetime

from anneal_operator.decision import Object
from anneal_operator.finetunejob.goodput import goodput
from anneal_operator.finetunejob.observe import stored_status
from anneal_operator.metrics import Metrics


def follow(metrics: Metrics, resource: Object, status: Object, now: datetime) -> None:
    """Count what a FineTuneJob's `status` has beyond the one it had before."""
    before = {attempt["number"] for attempt in _attempts(resource.get("status", {})) if attempt.get("ended")}
    for attempt in _attempts(status):
        if attempt.get("ended") and attempt["number"] not in before and attempt.get("cause"):
            metrics.count("anneal_attempt_ends_total", cause=attempt["cause"])
    meta = resource["metadata"]
    place = {"namespace": meta["namespace"], "name": meta["name"]}
    held = _held(status) - _held(resource.get("status", {}))
    if held > 0:
        metrics.count("anneal_accelerator_seconds_total", held, **place)
    share = goodput(stored_status(status), now)
    if share is not None:
        metrics.tell("anneal_goodput_ratio", share, **place)


def _attempts(status: Object) -> list[Object]:
    return list(status.get("attempts", []))


def _held(status: Object) -> int:
    return int(status.get("acceleratorSeconds", 0))
