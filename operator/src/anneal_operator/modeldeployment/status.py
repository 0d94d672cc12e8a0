"""The fields of a ModelDeployment's status that follow from others."""

from anneal_api.base import LABEL_DEPLOYMENT, LABEL_STAGE
from anneal_api.modeldeployment import ModelDeploymentStatus
from anneal_operator import naming
from anneal_operator.conditions import find, is_true
from anneal_operator.draft import Draft
from anneal_operator.modeldeployment import resources, rollout, versions
from anneal_operator.modeldeployment.observe import Observed


def finish(draft: Draft[ModelDeploymentStatus], observed: Observed, newest: str | None) -> None:
    """Set what is derived, when everything else is."""
    serving = rollout.serving(draft.status)
    draft.update(
        replicas=_total(draft, observed, "replicas"),
        ready_replicas=_total(draft, observed, "readyReplicas"),
        selector=f"{LABEL_DEPLOYMENT}={naming.label_value(draft.name)},{LABEL_STAGE}=serve",
        load=_load(observed),
        url=f"http://{draft.name}.{draft.namespace}.svc" if serving else "",
    )
    _ready(draft, observed, newest)
    _rolled_out(draft)
    draft.update(phase=_phase(draft.status, newest))


def _total(draft: Draft[ModelDeploymentStatus], observed: Observed, field: str) -> int:
    """Return a sum over the replicas of all versions that have traffic."""
    found = [rollout.of_version(observed, v.run) for v in draft.status.versions if v.traffic_percent]
    return sum(int(deployment.get("status", {}).get(field, 0)) for deployment in found if deployment)


def _rolled_out(draft: Draft[ModelDeploymentStatus]) -> None:
    """Say how far the version that was adopted last has come, once there is one to take over from."""
    newest = next(reversed(draft.status.versions), None)
    if newest is None or newest.stage == "":
        return
    bad = newest.stage in (*versions.STICKY, "Refused")
    text = newest.message or f"version {newest.run}"
    draft.condition("RolledOut", newest.stage == "Serving", newest.stage, text, quiet=not bad, warning=bad)


def _load(observed: Observed) -> str:
    load = observed.load
    return f"{load.waiting:g} waiting, {load.active:g} active" if load else ""


def _ready(draft: Draft[ModelDeploymentStatus], observed: Observed, newest: str | None) -> None:
    serving = versions.at(draft.status, "Serving")
    if not serving:
        draft.condition("Ready", False, "NoVersionServes", _why_not(draft, observed, newest))
        return
    front = observed.children.deployments.get(resources.gateway_name(draft.name))
    if not front or not front.get("status", {}).get("readyReplicas"):
        draft.condition("Ready", False, "GatewayNotReady", "no gateway pod is ready")
    elif draft.status.desired_replicas == 0:
        draft.condition("Ready", True, "ScaledToZero", "replicas start with the next request")
    elif draft.status.ready_replicas == 0:
        trouble = rollout.trouble(draft, observed, serving[0])
        draft.condition("Ready", False, "ReplicasNotReady", trouble or "no replica is ready")
    else:
        draft.condition("Ready", True, "Serving", f"version {serving[0].run} at {draft.status.url}/v1")


def _why_not(draft: Draft[ModelDeploymentStatus], observed: Observed, newest: str | None) -> str:
    version = versions.find(draft.status, newest) if newest else None
    if version is None:
        adopted = find(draft.status.conditions, "Adopted")
        return adopted.message if adopted else ""
    trouble = rollout.trouble(draft, observed, version) if version.stage == "Starting" else ""
    return trouble or f"version {version.run}: {version.stage or 'Adopted'} {version.message}".strip()


def _phase(status: ModelDeploymentStatus, newest: str | None) -> str:
    version = versions.find(status, newest) if newest else None
    if version and version.stage != "Serving":
        return version.stage or "Adopted"
    if version is None:
        return "Waiting"
    return "Ready" if is_true(status.conditions, "Ready") else "Serving"
