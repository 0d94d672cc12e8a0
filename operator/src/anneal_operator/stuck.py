"""Why a pod does not start, in the user's words: what is missing, and what to do about it."""

import re
from dataclasses import dataclass
from datetime import datetime

from anneal_operator import times
from anneal_operator.observed import JobView, PodView

PATIENCE = 60.0
"""Seconds a pod may take before its silence is worth a word."""

IMAGE_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


@dataclass(frozen=True)
class Stuck:
    """A condition's reason and message."""

    reason: str
    message: str


def diagnose(job: JobView, now: datetime) -> Stuck | None:
    """Return why a Job does not get on, or None when nothing is known to be wrong."""
    if not job.pods and times.seconds_since(job.created, now) > PATIENCE:
        return Stuck(
            "PodsNotCreated",
            f"no pod of Job {job.name} exists after {PATIENCE:.0f} s; a quota or an admission policy of the "
            f"namespace may forbid it: kubectl describe job {job.name}",
        )
    return next((found for pod in job.pods if (found := diagnose_pod(pod, now))), None)


def diagnose_pod(pod: PodView, now: datetime) -> Stuck | None:
    """Return why a pod does not start, or None."""
    if pod.over or (pod.phase == "Running" and not pod.waiting_reason):
        return None
    if pod.waiting_reason in IMAGE_REASONS:
        return Stuck("ImagePullFailed", f"pod {pod.name}: {pod.waiting_message or pod.waiting_reason}")
    if pod.waiting_reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return _container_error(pod)
    if pod.waiting_reason == "CrashLoopBackOff":
        return Stuck("CrashLoop", f"pod {pod.name} ends again and again: kubectl logs {pod.name} --previous")
    if pod.unschedulable:
        return _unschedulable(pod)
    if pod.node and pod.created and times.seconds_since(pod.created, now) > PATIENCE:
        return Stuck(
            "PodNotStarting",
            f"pod {pod.name} on node {pod.node} has not started: {pod.waiting_reason or pod.phase}; its volumes "
            f"may not be mountable: kubectl describe pod {pod.name}",
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
    return Stuck("ContainerNotStarting", f"pod {pod.name}: {pod.waiting_message or pod.waiting_reason}")


def _unschedulable(pod: PodView) -> Stuck:
    claim = re.search(r'persistentvolumeclaim "([^"]+)" (not found|is being deleted)', pod.unschedulable)
    if claim:
        return Stuck(
            "ClaimMissing",
            f"PersistentVolumeClaim {claim[1]!r} {claim[2]} in this namespace; create it, or correct the "
            f"pvc:// address",
        )
    if "unbound immediate PersistentVolumeClaims" in pod.unschedulable:
        return Stuck("ClaimUnbound", f"pod {pod.name}: {pod.unschedulable}")
    return Stuck("Unschedulable", f"pod {pod.name}: {pod.unschedulable}")
