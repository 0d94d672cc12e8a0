"""suspend: everything is released after a checkpoint; resuming goes on from there and costs no restart."""

from anneal_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from anneal_operator.conditions import is_true
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import attempts
from anneal_operator.finetunejob.causes import Cause
from anneal_operator.finetunejob.observe import Observed


def holds(draft: Draft[FineTuneJobStatus], observed: Observed, spec: FineTuneJobSpec) -> bool:
    """Say whether the job is suspended, in its status too; the caller releases what runs."""
    if spec.suspend:
        # The deadline's clock starts anew on resumption, as it does for a batch/v1 Job.
        draft.update(start_time=None)
        attempts.end_current(draft, Cause.SUSPENDED, "Suspended", "spec.suspend was set")
        draft.condition("Suspended", True, "Suspended", "spec.suspend is set; nothing of this job is running")
    elif is_true(draft.status.conditions, "Suspended"):
        draft.condition("Suspended", False, "Resumed", "spec.suspend was cleared")
    return spec.suspend
