"""The annotation anneal.dev/retry: another value makes a failed job try again, from its last checkpoint.

    kubectl annotate finetunejob NAME anneal.dev/retry="$(date -Is)" --overwrite

A value that was there before the job failed is noted and does nothing.
"""

from anneal_api.base import ANNOTATION_RETRY
from anneal_api.finetunejob import FineTuneJobStatus, RetryStatus
from anneal_operator.conditions import is_true
from anneal_operator.draft import Draft
from anneal_operator.finetunejob.observe import Observed

VALUE_LIMIT = 256


def heed(draft: Draft[FineTuneJobStatus], observed: Observed) -> None:
    """Take a failed job up again if its annotation says so."""
    value = str(draft.resource["metadata"].get("annotations", {}).get(ANNOTATION_RETRY, ""))[:VALUE_LIMIT]
    known = draft.status.retry.value if draft.status.retry else ""
    if not value or value == known:
        return
    if is_true(draft.status.conditions, "Failed"):
        _again(draft, observed, value)
    elif not is_true(draft.status.conditions, "Complete"):
        attempt = draft.status.retry.attempt if draft.status.retry else 0
        draft.update(retry=RetryStatus(value=value, attempt=attempt))


def _again(draft: Draft[FineTuneJobStatus], observed: Observed, value: str) -> None:
    """Restarts, back-off and deadline start anew; failed stages are made again, published ones are not."""
    last = draft.status.attempts[-1].number if draft.status.attempts else 0
    draft.condition("Failed", False, "Retried", f"{ANNOTATION_RETRY}: {value}")
    draft.update(
        retry=RetryStatus(value=value, attempt=last),
        restarts=0,
        restart_times=[],
        start_time=None,
        completion_time=None,
    )
    for job in observed.children.jobs.values():
        if job.failed and job.stage != "train":
            draft.remove(job)
