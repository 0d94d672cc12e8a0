"""The annotation anneal.dev/retry: another value makes a failed job try again, from its last checkpoint.

    kubectl annotate finetunejob NAME anneal.dev/retry="$(date -Is)" --overwrite

A value that was there before the job failed is noted and does nothing.
"""

from anneal_api.base import ANNOTATION_RETRY
from anneal_api.finetunejob import FineTuneJobStatus, RetryStatus
from anneal_operator import times
from anneal_operator.conditions import is_true
from anneal_operator.draft import Draft
from anneal_operator.finetunejob.observe import Observed

VALUE_LIMIT = 256


def heed(draft: Draft[FineTuneJobStatus]) -> None:
    """Take a failed job up again if its annotation says so; restarts, back-off and deadline start anew."""
    value = str(draft.resource["metadata"].get("annotations", {}).get(ANNOTATION_RETRY, ""))[:VALUE_LIMIT]
    known = draft.status.retry or RetryStatus(value="")
    if not value or value == known.value or is_true(draft.status.conditions, "Complete"):
        return
    if not is_true(draft.status.conditions, "Failed"):
        draft.update(retry=known.model_copy(update={"value": value}))
        return
    last = draft.status.attempts[-1].number if draft.status.attempts else 0
    draft.condition("Failed", False, "Retried", f"{ANNOTATION_RETRY}: {value}")
    draft.update(
        retry=RetryStatus(value=value, attempt=last, since=times.stamp(draft.now)),
        restarts=0,
        restart_times=[],
        start_time=None,
        completion_time=None,
    )


def clears(draft: Draft[FineTuneJobStatus], observed: Observed) -> bool:
    """Remove the Jobs of stages that failed before the retry, and return whether any was there.

    Told by time and not remembered: the operator may have ended between the retry and the removal.
    """
    since = draft.status.retry.since if draft.status.retry else ""
    failed = [job for job in observed.children.jobs.values() if job.failed and job.stage != "train"]
    stale = [job for job in failed if since and times.parse(job.finished) <= times.parse(since)]
    for job in stale:
        draft.remove(job)
    if stale:
        draft.wake(2)
    return bool(stale)
