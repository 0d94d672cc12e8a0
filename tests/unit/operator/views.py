"""Attempts, pods, Jobs and nodes as tests of policies need them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from anneal_api.finetunejob import Attempt, FineTuneJobStatus
from anneal_api.outcome import EXIT_CODES, Outcome
from anneal_operator import times
from anneal_operator.finetunejob.causes import Cause
from anneal_operator.nodes import NodeView, node_view
from anneal_operator.observed import JobView, PodView, job_view, pod_view

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def stamp(seconds: float) -> str:
    return times.stamp(at(seconds))


def ended(number: int, seconds: float, cause: str = Cause.CRASH, **more: Any) -> Attempt:
    """Return an attempt that began at NOW and ended so many seconds later."""
    fields = {"number": number, "cause": cause, "started": stamp(0), "ended": stamp(seconds), "nodes": 2}
    return Attempt.model_validate({**fields, **more})


def status(*attempts: Attempt, **more: Any) -> FineTuneJobStatus:
    return FineTuneJobStatus.model_validate({"attempts": attempts, **more})


def words(verdict: str, reason: str, message: str = "m", **result: Any) -> str:
    said = {"verdict": verdict, "reason": reason, "message": message, "result": result}
    return Outcome.model_validate(said).model_dump_json(by_alias=True)


def pod(index: int = 0, **more: Any) -> PodView:
    """Return a running pod on the node of its number; `more` replaces parts of its status."""
    meta: dict[str, Any] = {"name": f"p-{index}", "uid": f"p{index}", "creationTimestamp": stamp(0)}
    meta["ownerReferences"] = [{"kind": "Job", "uid": "j"}]
    meta["annotations"] = {"batch.kubernetes.io/job-completion-index": str(index)}
    if more.pop("deleting", False):
        meta["deletionTimestamp"] = stamp(0)
    spec = {"nodeName": f"node-{index}"}
    return pod_view({"metadata": meta, "spec": spec, "status": {"phase": "Running", **more}})


def exited(index: int, code: int, message: str = "", at: float = 5, reason: str = "Error") -> PodView:
    """Return a pod that ended with an exit code and these last words."""
    end = {"exitCode": code, "message": message, "finishedAt": stamp(at), "reason": reason}
    return pod(index, phase="Failed", containerStatuses=[{"state": {"terminated": end}}])


def said(index: int, verdict: str, reason: str, message: str = "m", at: float = 5) -> PodView:
    """Return a pod that ended with an outcome of its launcher."""
    return exited(index, EXIT_CODES[verdict], words(verdict, reason, message), at)


def disrupted(index: int, reason: str) -> PodView:
    return pod(index, conditions=[{"type": "DisruptionTarget", "status": "True", "reason": reason}])


def job(*pods: PodView, failed: bool = True, suspend: bool = False) -> JobView:
    conditions = [{"type": "FailureTarget", "status": "True", "reason": "PodFailurePolicy"}] if failed else []
    meta = {"name": "j", "namespace": "team", "uid": "j", "creationTimestamp": stamp(0)}
    spec = {"completions": 2, "suspend": suspend}
    return job_view({"metadata": meta, "spec": spec, "status": {"conditions": conditions}}, list(pods))


def node(
    name: str, *, ready: bool = True, since: float = 0, cordoned: bool = False, **faults: str
) -> NodeView:
    """Return a node; `faults` are further conditions and their status."""
    return node_view(raw_node(name, ready=ready, since=since, cordoned=cordoned, **faults))


def raw_node(
    name: str, *, ready: bool = True, since: float = 0, cordoned: bool = False, **faults: str
) -> dict[str, Any]:
    state = {"type": "Ready", "status": "True" if ready else "Unknown", "lastTransitionTime": stamp(since)}
    more = [{"type": t, "status": s, "reason": "R", "message": "it says why"} for t, s in faults.items()]
    return {
        "metadata": {"name": name},
        "spec": {"unschedulable": cordoned},
        "status": {"conditions": [state, *more]},
    }
