"""activeDeadlineSeconds: the clock starts with the first stage, stands still while suspended."""

from anneal_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from anneal_operator import times
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import finish


def start(draft: Draft[FineTuneJobStatus], spec: FineTuneJobSpec) -> None:
    """Start the clock, and look again when it runs out."""
    started = draft.status.start_time or times.stamp(draft.now)
    draft.update(start_time=started)
    if spec.active_deadline_seconds:
        draft.wake(spec.active_deadline_seconds - times.seconds_since(started, draft.now))


def passed(draft: Draft[FineTuneJobStatus], spec: FineTuneJobSpec) -> bool:
    """Fail the job when its time is over, and return whether it is."""
    limit, started = spec.active_deadline_seconds, draft.status.start_time
    if not limit or not started or spec.suspend or times.seconds_since(started, draft.now) < limit:
        return False
    finish.fail(draft, "DeadlineExceeded", f"spec.activeDeadlineSeconds: {limit} have passed")
    return True
