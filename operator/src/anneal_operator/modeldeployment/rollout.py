"""Surge: a new version takes over when all its replicas are ready; the old one goes once nobody is sent there."""

from anneal_api.base import LABEL_VERSION
from anneal_api.modeldeployment import ModelDeploymentSpec, ModelDeploymentStatus, ServedVersion
from anneal_api.profiles import OperatorConfig
from anneal_operator import stuck
from anneal_operator.decision import Deletion, Object
from anneal_operator.draft import Draft
from anneal_operator.modeldeployment import build, resources, versions
from anneal_operator.modeldeployment.observe import Observed
from anneal_operator.modeldeployment.resources import Site

SWITCH_SECONDS = 90.0
"""Time in which every gateway has read its new routes (a ConfigMap reaches a pod within a minute)."""


def roll(
    draft: Draft[ModelDeploymentStatus],
    observed: Observed,
    spec: ModelDeploymentSpec,
    config: OperatorConfig,
    count: int,
    newest: str | None,
) -> None:
    """Bring replicas to what the versions' stages say, and the stages to what the replicas are."""
    for version in versions.at(draft.status, "Starting"):
        if version.run != newest:
            versions.move(draft, version, "Retired", "another version was wanted before it served")
    _take_over(draft, observed, spec, count)
    for version in draft.status.versions:
        site = build.site_of(draft, observed, version.run, config)
        if site and version.stage in ("Starting", "Serving"):
            draft.apply += [resources.replicas_service(site), resources.replicas(site, count)]
    _drain(draft)
    _remove_idle(draft, observed)


def _take_over(
    draft: Draft[ModelDeploymentStatus], observed: Observed, spec: ModelDeploymentSpec, count: int
) -> None:
    for version in versions.at(draft.status, "Starting"):
        deployment = of_version(observed, version.run)
        if deployment is not None and ready(deployment) >= count:
            _switch(draft, version)
        elif versions.age(version, draft.now) > spec.rollout.progress_deadline_seconds:
            text = f"not ready within spec.rollout.progressDeadlineSeconds: {spec.rollout.progress_deadline_seconds}"
            versions.move(draft, version, "TimedOut", f"{text}; {trouble(draft, observed, version)}")
        else:
            draft.wake(spec.rollout.progress_deadline_seconds - versions.age(version, draft.now))


def _switch(draft: Draft[ModelDeploymentStatus], version: ServedVersion) -> None:
    for old in versions.at(draft.status, "Serving"):
        versions.move(draft, old.model_copy(update={"traffic_percent": 0}), "Draining")
    versions.move(draft, version.model_copy(update={"traffic_percent": 100}), "Serving")
    draft.event("TookOver", f"version {version.run} serves ({version.digest})", "served", version.run)


def _drain(draft: Draft[ModelDeploymentStatus]) -> None:
    for version in versions.at(draft.status, "Draining"):
        left = SWITCH_SECONDS - versions.age(version, draft.now)
        if left > 0:
            draft.wake(left)
        else:
            versions.move(draft, version, "Retired")


def _remove_idle(draft: Draft[ModelDeploymentStatus], observed: Observed) -> None:
    """Remove the replicas of versions that shall have none; their streams get the pods' grace period to end."""
    served = bool(versions.at(draft.status, "Serving"))
    for kind, found in (
        ("Deployment", observed.children.deployments),
        ("Service", observed.children.services),
    ):
        for name, obj in found.items():
            run = _version(obj)
            if run is not None and _idle(draft.status, run, served) and not _going(obj):
                draft.delete.append(Deletion(kind, draft.namespace, name, obj["metadata"]["uid"]))


def _idle(status: ModelDeploymentStatus, run: str, served: bool) -> bool:
    """Whether a version's replicas may go. With no version serving, a status may have been lost: keep what is not
    known to be of no use."""
    version = versions.find(status, run)
    if version is None or version.stage not in versions.LIVE:
        return served or (version is not None and version.stage in ("TimedOut", "Retired"))
    return False


def _version(obj: Object) -> str | None:
    value = obj["metadata"].get("labels", {}).get(LABEL_VERSION)
    return None if value is None else str(value)


def _going(obj: Object) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def of_version(observed: Observed, run: str) -> Object | None:
    """Return the Deployment of a version, or None."""
    return next((d for d in observed.children.deployments.values() if _version(d) == run), None)


def ready(deployment: Object) -> int:
    """Return a Deployment's ready replicas, none while its status is not about its newest spec."""
    status, meta = deployment.get("status", {}), deployment["metadata"]
    if status.get("observedGeneration", 0) < meta.get("generation", 0):
        return 0
    return int(status.get("readyReplicas", 0))


def trouble(draft: Draft[ModelDeploymentStatus], observed: Observed, version: ServedVersion) -> str:
    """Return what is known to keep a version's replicas from being ready; empty when nothing is."""
    own = [p for p in observed.children.pods if p.labels.get(LABEL_VERSION) == version.run]
    found = (stuck.diagnose_pod(pod, draft.now) for pod in own)
    return next((f"{why.reason}: {why.message}" for why in found if why), "")


def gateway_site(
    draft: Draft[ModelDeploymentStatus], observed: Observed, config: OperatorConfig
) -> tuple[Site, ServedVersion] | None:
    """Return the version that serves, and where its children are made."""
    for version in versions.at(draft.status, "Serving"):
        site = build.site_of(draft, observed, version.run, config)
        if site:
            return site, version
    return None
