"""Kueue: the training Job is made suspended with the queue's label, and waits to be let go on.

Against Kueue's documented contract for batch/v1 Jobs (kueue.sigs.k8s.io: Run A Kubernetes Job; Workload): the Job
carries the label kueue.x-k8s.io/queue-name; Kueue alone changes spec.suspend, and adds node selectors and
tolerations to the template while it does; it takes a place away by suspending the Job again. Its Workload has
the label kueue.x-k8s.io/job-uid and the conditions QuotaReserved, Admitted and Evicted. It was not to be had where
this was written, so it has never met a real one.
"""

from collections.abc import Sequence

from anneal_api.finetunejob import Attempt, FineTuneJobSpec, FineTuneJobStatus
from anneal_operator.decision import Object
from anneal_operator.draft import Draft
from anneal_operator.observed import JobView

LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
LABEL_JOB_UID = "kueue.x-k8s.io/job-uid"
TOLD = (("Evicted", "True"), ("Admitted", "False"), ("QuotaReserved", "False"))
"""Conditions of a Workload that say why its Job waits, the one that says most first."""


def queued(job: Object, spec: FineTuneJobSpec) -> Object:
    """Return the Job as Kueue wants it; without a queue as it is."""
    if spec.queue_name is None:
        return job
    labels = {**job["metadata"]["labels"], LABEL_QUEUE: spec.queue_name}
    return {
        **job,
        "metadata": {**job["metadata"], "labels": labels},
        "spec": {"suspend": True, **job["spec"]},
    }


def waits(job: JobView, attempt: Attempt) -> bool:
    """Whether the group has not been let go on yet."""
    return job.suspended and not attempt.admitted and not job.pods


def wait(draft: Draft[FineTuneJobStatus], attempt: Attempt, queue: str, workloads: Sequence[Object]) -> None:
    """Say what the group waits for; the deadline's clock stands still meanwhile."""
    draft.update(start_time=None)
    why = _told(workloads)
    said = f": {why}" if why else ""
    text = f"attempt {attempt.number} waits in LocalQueue {queue} for Kueue{said}"
    draft.condition("Training", False, "Queued", text, turn=attempt.number)


def _told(workloads: Sequence[Object]) -> str:
    """Return what Kueue says of the Job's Workload."""
    conditions = [c for w in workloads for c in w.get("status", {}).get("conditions", [])]
    for told in TOLD:
        for condition in conditions:
            if (condition["type"], condition["status"]) == told:
                return f"{told[0]} is {told[1]} ({condition['reason']}): {condition['message']}"
    return ""
