"""Why a pod does not start, in the user's words: what is missing, and what to do about it."""

import re
from dataclasses import dataclass
from datetime import datetime

from anneal_operator import times
from anneal_operator.observed import JobView, PodView, Refusal

PATIENCE = 60.0
"""Seconds a pod may take before its silence is worth a word."""

REMEDIES = {
    r"Insufficient": "wait until others give it back, add nodes that have it, or ask for less",
    r"node affinity/selector": "no other node has the labels of the accelerator profile's nodeSelector, or may be "
    "used again yet (status.avoided)",
    r"untolerated taint": "let the accelerator profile tolerate the taint, or take it off",
    r"volume node affinity": "the claim's volume can be used on other nodes only",
}
"""What a scheduler's word means, and what to do about it."""
QUOTA = re.compile(r"(exceeded|failed) quota: ([^\s,:]+)[,:] (.*)", re.DOTALL)
QUOTA_REMEDIES = {
    "exceeded": ("QuotaExceeded", "raise it, or wait until others are done"),
    "failed": (
        "QuotaUndeclared",
        "give the namespace a LimitRange with defaults, or let the accelerator profile's overlay ask for it",
    ),
}
"""The condition's reason and the remedy, by the word of the API server's quota admission."""
IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


@dataclass(frozen=True)
class Stuck:
    """A condition's reason and message."""

    reason: str
    message: str


def diagnose(job: JobView, now: datetime) -> Stuck | None:
    """Return why a Job does not get on, or None when nothing is known to be wrong."""
    if without_pods(job, now):
        return _without_pods(job)
    return next((found for pod in job.pods if (found := diagnose_pod(pod, now))), None)


def without_pods(job: JobView, now: datetime) -> bool:
    """Whether a Job should have pods by now and lacks some."""
    waited = times.seconds_since(job.started, now) if job.started else 0.0
    return not job.suspended and len(job.pods) < job.completions and waited > PATIENCE


def slow(pod: PodView, now: datetime) -> bool:
    """Whether a pod has a node and should have started there by now."""
    starting = pod.phase == "Pending" and bool(pod.node) and bool(pod.created)
    return starting and times.seconds_since(pod.created, now) > PATIENCE


def refused(refusal: Refusal) -> Stuck:
    """Return why a child could not be made; it is tried again and again, so the remedy is enough."""
    what = f"{refusal.kind} {refusal.name}"
    return _by_quota(what, refusal.message) or Stuck(
        "CreationRefused",
        f"{what} is refused: {refusal.message}; a policy, a webhook or a right of the operator is against it",
    )


def _by_quota(what: str, said: str) -> Stuck | None:
    quota = QUOTA.search(said)
    if quota is None:
        return None
    reason, remedy = QUOTA_REMEDIES[quota[1]]
    text = f"ResourceQuota {quota[2]} of the namespace leaves no room for {what}: {quota[3]}"
    return Stuck(reason, f"{text}; {remedy}")


def _without_pods(job: JobView) -> Stuck:
    if by_quota := _by_quota(f"pods of Job {job.name}", job.warning):
        return by_quota
    said = f": {job.warning}" if job.warning else "; a quota or an admission policy may forbid them"
    return Stuck(
        "PodsNotCreated",
        f"{len(job.pods)} of {job.completions} pods of Job {job.name} exist after {PATIENCE:.0f} s{said} "
        f"(kubectl describe job {job.name})",
    )


def diagnose_pod(pod: PodView, now: datetime) -> Stuck | None:
    """Return why a pod does not start, or None."""
    if pod.over or (pod.phase == "Running" and not pod.waiting_reason):
        return None
    if pod.waiting_reason in IMAGE_REASONS:
        text = f"pod {pod.name}: {pod.waiting_message or pod.waiting_reason}"
        return Stuck("ImagePullFailed", f"{text}; check the image's name and the profile's imagePullSecrets")
    if pod.waiting_reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return _container_error(pod)
    if pod.waiting_reason == "CrashLoopBackOff":
        return Stuck("CrashLoop", f"pod {pod.name} ends again and again: kubectl logs {pod.name} --previous")
    if pod.unschedulable:
        return _unschedulable(pod)
    if slow(pod, now):
        said = pod.warning or f"{pod.waiting_reason or pod.phase}; its volumes may not be mountable"
        return Stuck(
            "PodNotStarting",
            f"pod {pod.name} on node {pod.node} has not started: {said} (kubectl describe pod {pod.name})",
        )
    return None


def _container_error(pod: PodView) -> Stuck:
    secret = re.search(r'secrets? "([^"]+)" not found', pod.waiting_message)
    if secret:
        name = secret[1].split("/")[-1]
        return Stuck(
            "SecretMissing",
            f"Secret {name!r} does not exist in this namespace; create it, or correct the resource's secretRef",
        )
    text = f"pod {pod.name} on node {pod.node}: {pod.waiting_message or pod.waiting_reason}"
    return Stuck("ContainerNotStarting", f"{text} (kubectl describe pod {pod.name})")


def _unschedulable(pod: PodView) -> Stuck:
    claim = re.search(r'persistentvolumeclaim "([^"]+)" (not found|is being deleted)', pod.unschedulable)
    if claim:
        return Stuck(
            "ClaimMissing",
            f"PersistentVolumeClaim {claim[1]!r} {claim[2]} in this namespace; create it, or correct the "
            f"pvc:// address",
        )
    if "unbound immediate PersistentVolumeClaims" in pod.unschedulable:
        text = (
            f"a PersistentVolumeClaim of pod {pod.name} waits for a volume ({pod.unschedulable}); kubectl describe pvc "
            f"says why: often its storageClassName, or no volume of its size"
        )
        return Stuck("ClaimUnbound", text)
    return Stuck(
        "Unschedulable", f"no node takes pod {pod.name}: {pod.unschedulable}{_remedies(pod.unschedulable)}"
    )


def _remedies(said: str) -> str:
    # What preemption could not do follows, and would repeat all words.
    first = said.partition("preemption:")[0]
    return "".join(f"; {remedy}" for word, remedy in REMEDIES.items() if re.search(word, first))
