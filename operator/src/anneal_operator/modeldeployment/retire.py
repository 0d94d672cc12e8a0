"""What becomes of a version that has no traffic any more: its replicas stay while gateways and streams leave."""

from anneal_api.base import LABEL_VERSION
from anneal_api.modeldeployment import ModelDeploymentStatus, Rollout, ServedVersion
from anneal_operator.decision import Deletion, Object
from anneal_operator.draft import Draft
from anneal_operator.modeldeployment import versions
from anneal_operator.modeldeployment.observe import Observed

SWITCH_SECONDS = 90.0
"""Time in which every gateway has its new routes, even one that has only the mounted file (a minute)."""


def drain(draft: Draft[ModelDeploymentStatus], rules: Rollout) -> None:
    """Retire versions whose streams have had their time to leave."""
    for version in versions.at(draft.status, "Draining"):
        if _stays(draft, rules, version) <= 0:
            versions.move(draft, version, "Retired", version.message)


def _stays(draft: Draft[ModelDeploymentStatus], rules: Rollout, version: ServedVersion) -> float:
    """Return for how long a version's replicas outlive its traffic; not at all where another waits for their place."""
    if rules.strategy != "surge":
        return 0.0
    left = SWITCH_SECONDS - versions.age(version, draft.now)
    if left > 0:
        draft.wake(left)
    return left


def remove_idle(draft: Draft[ModelDeploymentStatus], observed: Observed, rules: Rollout) -> None:
    """Remove the replicas of versions that shall have none; their streams get the pods' grace period to end."""
    for kind, found in (
        ("Deployment", observed.children.deployments),
        ("Service", observed.children.services),
    ):
        for name, obj in found.items():
            run = version_of(obj)
            if run is not None and _idle(draft, rules, run) and not _going(obj):
                draft.delete.append(Deletion(kind, draft.namespace, name, obj["metadata"]["uid"]))


def _idle(draft: Draft[ModelDeploymentStatus], rules: Rollout, run: str) -> bool:
    """Whether a version's replicas may go. With no version serving, a status may have been lost: keep what is not
    known to be of no use."""
    version = versions.find(draft.status, run)
    if version is None:
        return bool(versions.at(draft.status, "Serving"))
    if version.stage == "RolledBack":
        return _stays(draft, rules, version) <= 0
    useless = version.stage in ("TimedOut", "Retired", "Superseded")
    return version.stage not in versions.LIVE and (bool(versions.at(draft.status, "Serving")) or useless)


def version_of(obj: Object) -> str | None:
    """Return the version a child belongs to; None for the gateway's."""
    value = obj["metadata"].get("labels", {}).get(LABEL_VERSION)
    return None if value is None else str(value)


def _going(obj: Object) -> bool:
    return "deletionTimestamp" in obj["metadata"]
