"""The end of a run: said once, and then only cleaning up."""

from anneal_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from anneal_operator import times
from anneal_operator.conditions import is_true
from anneal_operator.decision import Deletion
from anneal_operator.draft import Draft
from anneal_operator.finetunejob.observe import Observed

CHILDREN_SECONDS = 3600.0
"""How long the Jobs and pods of a finished run stay, for whoever wants to read their logs."""


def is_finished(status: FineTuneJobStatus) -> bool:
    """Whether the run has ended, for good."""
    return is_true(status.conditions, "Complete") or is_true(status.conditions, "Failed")


def complete(draft: Draft[FineTuneJobStatus]) -> None:
    """End the run well."""
    draft.condition("Complete", True, "Succeeded", "all stages are published")
    draft.update(completion_time=draft.status.completion_time or times.stamp(draft.now))


def fail(draft: Draft[FineTuneJobStatus], reason: str, message: str) -> None:
    """End the run badly."""
    draft.condition("Failed", True, reason, message, warning=True)
    draft.update(completion_time=draft.status.completion_time or times.stamp(draft.now))


def clean_up(draft: Draft[FineTuneJobStatus], observed: Observed, spec: FineTuneJobSpec) -> None:
    """Release what a finished or suspended run still holds, and remove a finished one after its time."""
    if not is_finished(draft.status) and not spec.suspend:
        return
    for job in observed.children.jobs.values():
        if job.active:
            draft.remove(job)
    if is_finished(draft.status):
        _sweep(draft, observed)
        _expire(draft, spec)


def _sweep(draft: Draft[FineTuneJobStatus], observed: Observed) -> None:
    """Remove what has ended, after its time; the plan stays, for another try or for removing the artifacts."""
    ended = [job for job in observed.children.jobs.values() if not job.active]
    if not ended or draft.status.completion_time is None:
        return
    left = CHILDREN_SECONDS - times.seconds_since(draft.status.completion_time, draft.now)
    if left > 0:
        draft.wake(left)
        return
    for job in ended:
        draft.remove(job)


def _expire(draft: Draft[FineTuneJobStatus], spec: FineTuneJobSpec) -> None:
    ttl, ended = spec.ttl_seconds_after_finished, draft.status.completion_time
    if ttl is None or ended is None:
        return
    left = ttl - times.seconds_since(ended, draft.now)
    if left > 0:
        draft.wake(left)
    else:
        draft.delete.append(Deletion("FineTuneJob", draft.namespace, draft.name, draft.uid))
