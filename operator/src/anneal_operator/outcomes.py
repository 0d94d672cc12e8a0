"""What became of a stage, read off its pods: the outcome a stage wrote, or the kubelet's word for its end."""

from collections.abc import Collection

from pydantic import ValidationError

from anneal_api.outcome import EXIT_CONFIG, EXIT_TRY_AGAIN, Outcome
from anneal_operator.observed import JobView, PodView

LAST = "9999"


def of_success(job: JobView) -> Outcome | None:
    """Return what a finished Job's first pod reported; None when the pod is gone or says nothing."""
    done = sorted((p for p in job.pods if p.exit_code == 0), key=lambda p: p.index)
    return next((found for pod in done if (found := parse(pod))), None)


def of_failure(job: JobView) -> Outcome:
    """Return why a failed Job failed."""
    pod = culprit(job)
    if pod is None:
        return Outcome(verdict="Failed", reason=job.reason or "JobFailed", message=job.message[:2048])
    return of_pod(pod)


def culprit(job: JobView, lost: Collection[str] = ()) -> PodView | None:
    """Return the pod to blame: a wrong configuration first, then a node that is `lost`, a disruption, a pod that
    somebody deleted, and then the earliest failure of its own."""
    failed = [p for p in job.pods if _ended_badly(p) or _deleted(job, p) or p.node in lost]
    return min(failed, key=lambda pod: _blame(job, pod, lost), default=None)


def _ended_badly(pod: PodView) -> bool:
    return pod.exit_code not in (None, 0) or bool(pod.disruption) or pod.phase == "Failed"


def _deleted(job: JobView, pod: PodView) -> bool:
    """Whether somebody takes a pod away; of a Job that has failed or is held back its controller does."""
    return pod.deleting and not pod.over and job.active and not job.deleting and not job.suspended


def _blame(job: JobView, pod: PodView, lost: Collection[str]) -> tuple[int, str, int]:
    if pod.exit_code == EXIT_CONFIG:
        rank = 0
    elif pod.node in lost and not pod.over:
        rank = 1
    elif pod.disruption:
        rank = 2
    elif _deleted(job, pod):
        rank = 3
    else:
        rank = 5 if pod.exit_code == EXIT_TRY_AGAIN else 4
    # Of several tries of one pod the last one tells most; of several pods of a group the first to fail.
    return rank, pod.finished or LAST, pod.index


def of_pod(pod: PodView) -> Outcome:
    """Return the outcome of a pod that failed."""
    written = parse(pod)
    if written and written.verdict != "Succeeded":
        return written
    if pod.disruption:
        return Outcome(
            verdict="Retry",
            reason=pod.disruption,
            message=f"pod {pod.name} was ended on node {pod.node or 'unknown'}",
        )
    if pod.exit_code is None and pod.deleting:
        text = f"pod {pod.name} on node {pod.node or 'unknown'} was deleted, and not by this operator"
        return Outcome(verdict="Retry", reason="PodDeleted", message=text)
    if pod.exit_reason == "OOMKilled":
        return Outcome(verdict="Failed", reason="OOMKilled", message=_without_memory(pod))
    verdict = {EXIT_CONFIG: "Refused", EXIT_TRY_AGAIN: "Retry"}.get(pod.exit_code or 0, "Failed")
    reason = pod.exit_reason if pod.exit_reason.isalnum() and pod.exit_reason != "Error" else "PodFailed"
    said = f": {pod.message[:1000]}" if pod.message else ""
    message = f"pod {pod.name} ended with exit code {pod.exit_code} on node {pod.node or 'unknown'}{said}"
    return Outcome.model_validate({"verdict": verdict, "reason": reason, "message": message})


def _without_memory(pod: PodView) -> str:
    return (
        f"pod {pod.name} on node {pod.node or 'unknown'} took more memory than it may, or than the node had, and the "
        f"kernel ended it (exit code {pod.exit_code}); ask for more in overlay.requests of its accelerator profile, or "
        f"use less"
    )


def parse(pod: PodView) -> Outcome | None:
    """Return the outcome in a pod's termination message, or None when there is none."""
    try:
        return Outcome.model_validate_json(pod.message)
    except ValidationError:
        return None
