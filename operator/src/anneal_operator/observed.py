"""Children of a resource, reduced to what decisions look at."""

from dataclasses import dataclass, field
from typing import Any

from anneal_api.base import LABEL_ATTEMPT, LABEL_STAGE, LABEL_VERSION
from anneal_operator.decision import Object


@dataclass(frozen=True)
class PodView:
    """A pod of a stage."""

    name: str
    uid: str
    job_uid: str
    index: int
    phase: str
    node: str
    address: str
    ready: bool
    deleting: bool
    exit_code: int | None
    exit_reason: str
    """The kubelet's word for the end, such as OOMKilled."""
    message: str
    """The termination message: an Outcome as JSON when the stage wrote it."""
    finished: str
    created: str
    waiting_reason: str
    waiting_message: str
    unschedulable: str
    disruption: str
    """Reason of the DisruptionTarget condition; empty when there is none."""
    labels: dict[str, str]
    warning: str = ""
    """What the cluster's newest warning event says of it; only asked for when it does not get on."""

    @property
    def over(self) -> bool:
        """Whether the pod will not run again."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True)
class JobView:
    """A Job of a stage."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    stage: str
    attempt: int
    version: str
    created: str
    finished: str
    succeeded: bool
    failed: bool
    """Also while a Job that has failed waits for its pods to end (FailureTarget)."""
    reason: str
    message: str
    deleting: bool
    completions: int = 1
    suspended: bool = False
    """Kueue holds it back, or has taken its place away again."""
    started: str = ""
    """When it began; empty while it is held back, and until the Job controller has noticed that it no longer is."""
    pods: list[PodView] = field(default_factory=list)
    warning: str = ""
    """What the cluster's newest warning event says of it; only asked for when it does not get on."""

    @property
    def active(self) -> bool:
        """Whether the Job may still run pods."""
        return not self.succeeded and not self.failed

    @property
    def up(self) -> int:
        """How many of its pods run, or have done their work."""
        running = (pod.phase in ("Running", "Succeeded") and not pod.waiting_reason for pod in self.pods)
        return sum(running)


@dataclass(frozen=True)
class Refusal:
    """What the API server has said when a child was to be made."""

    kind: str
    name: str
    message: str


@dataclass(frozen=True)
class Children:
    """All children that belong to one owner by UID."""

    jobs: dict[str, JobView] = field(default_factory=dict)
    pods: list[PodView] = field(default_factory=list)
    """Pods of no Job that is there: replicas, gateways, and what deleted Jobs leave until it has ended."""
    config_maps: dict[str, dict[str, str]] = field(default_factory=dict)
    deployments: dict[str, Object] = field(default_factory=dict)
    services: dict[str, Object] = field(default_factory=dict)
    refusal: Refusal | None = None
    """Which child could not be made at the last look; an operator that has just started finds out by trying."""

    def refused(self, *names: str) -> Refusal | None:
        """Return why a child of one of these names could not be made, or None."""
        return self.refusal if self.refusal and self.refusal.name in names else None

    def of_stage(self, stage: str) -> list[JobView]:
        """Return the Jobs of a stage, newest attempt last."""
        found = [job for job in self.jobs.values() if job.stage == stage]
        return sorted(found, key=lambda job: (job.attempt, job.created, job.name))


def children(
    owner_uid: str,
    jobs: list[Object],
    pods: list[Object],
    config_maps: list[Object],
    services: list[Object],
    deployments: list[Object] | None = None,
) -> Children:
    """Sort raw objects by owner UID; what belongs to another owner of the same name is left out."""
    own_jobs = [job for job in jobs if owned(job, owner_uid)]
    views = [pod_view(pod) for pod in pods]
    known = {job["metadata"]["uid"] for job in own_jobs}
    return Children(
        jobs={j["metadata"]["name"]: job_view(j, views) for j in own_jobs},
        pods=[view for view in views if view.job_uid not in known],
        config_maps={m["metadata"]["name"]: m.get("data", {}) for m in config_maps if owned(m, owner_uid)},
        deployments=_by_name(deployments, owner_uid),
        services=_by_name(services, owner_uid),
    )


def _by_name(objects: list[Object] | None, owner_uid: str) -> dict[str, Object]:
    return {obj["metadata"]["name"]: obj for obj in objects or [] if owned(obj, owner_uid)}


def owned(obj: Object, uid: str) -> bool:
    """Return whether the controller of `obj` is the owner with that UID."""
    references = obj["metadata"].get("ownerReferences", [])
    return any(ref.get("uid") == uid and ref.get("controller") for ref in references)


def job_view(job: Object, pods: list[PodView]) -> JobView:
    """Return what decisions need of a Job and its pods."""
    meta, status = job["metadata"], job.get("status", {})
    labels = meta.get("labels", {})
    done, failed = _condition(status, "Complete"), _condition(status, "Failed")
    failing = failed or _condition(status, "FailureTarget")
    end = done or failing or {}
    held = _condition(status, "Suspended")
    return JobView(
        name=meta["name"],
        namespace=meta.get("namespace", ""),
        uid=meta["uid"],
        resource_version=meta.get("resourceVersion", ""),
        stage=labels.get(LABEL_STAGE, ""),
        attempt=int(labels.get(LABEL_ATTEMPT, "0")),
        version=labels.get(LABEL_VERSION, ""),
        created=meta.get("creationTimestamp", ""),
        finished=end.get("lastTransitionTime", ""),
        succeeded=bool(done),
        failed=bool(failing),
        reason=end.get("reason", ""),
        message=end.get("message", ""),
        deleting="deletionTimestamp" in meta,
        completions=job.get("spec", {}).get("completions", 1),
        suspended=bool(job.get("spec", {}).get("suspend")),
        started=status.get("startTime") or ("" if held else meta.get("creationTimestamp", "")),
        pods=[pod for pod in pods if pod.job_uid == meta["uid"]],
    )


def pod_view(pod: Object) -> PodView:
    """Return what decisions need of a pod."""
    meta, status = pod["metadata"], pod.get("status", {})
    container: Object = next(iter(status.get("containerStatuses", [])), {})
    state = container.get("state", {})
    ended, waiting = state.get("terminated", {}), _beside(status) or state.get("waiting", {})
    scheduled = _condition(status, "PodScheduled", "False") or {}
    annotations = meta.get("annotations", {})
    return PodView(
        name=meta["name"],
        uid=meta.get("uid", ""),
        job_uid=_job_uid(meta),
        index=int(annotations.get("batch.kubernetes.io/job-completion-index", "0")),
        phase=status.get("phase", "Pending"),
        node=pod.get("spec", {}).get("nodeName", ""),
        address=status.get("podIP", ""),
        ready=bool(_condition(status, "Ready")),
        deleting="deletionTimestamp" in meta,
        exit_code=ended.get("exitCode"),
        exit_reason=ended.get("reason", status.get("reason", "")),
        message=ended.get("message", ""),
        finished=ended.get("finishedAt") or "",
        created=meta.get("creationTimestamp", ""),
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        unschedulable=scheduled.get("message", "") if scheduled.get("reason") == "Unschedulable" else "",
        disruption=(_condition(status, "DisruptionTarget") or {}).get("reason", ""),
        labels=meta.get("labels", {}),
    )


def _beside(status: Object) -> Object:
    """Return why a container that starts before the work waits; the work's own reason is then only that it does."""
    states = (each.get("state", {}).get("waiting", {}) for each in status.get("initContainerStatuses", []))
    return next((each for each in states if each.get("reason") != "PodInitializing" and each), {})


def _job_uid(meta: Object) -> str:
    jobs = [ref["uid"] for ref in meta.get("ownerReferences", []) if ref["kind"] == "Job"]
    return jobs[0] if jobs else ""


def _condition(status: Object, type_: str, value: str = "True") -> dict[str, Any] | None:
    found = (c for c in status.get("conditions", []) if c["type"] == type_ and c["status"] == value)
    return next(found, None)
