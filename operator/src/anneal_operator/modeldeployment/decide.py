"""The way through a ModelDeployment: adopt, build beside what serves, take over, scale.

Whatever is wrong with what shall come, the version that serves goes on serving.
"""

import re
from datetime import datetime

from pydantic import ValidationError

from anneal_api.base import ArtifactRef
from anneal_api.modeldeployment import ModelDeploymentSpec, ModelDeploymentStatus
from anneal_api.profiles import OperatorConfig
from anneal_operator import pause
from anneal_operator.decision import Decision
from anneal_operator.draft import Draft
from anneal_operator.modeldeployment import (
    adoption,
    autoscale,
    build,
    cost,
    resources,
    rollback,
    rollout,
    status,
    versions,
)
from anneal_operator.modeldeployment.observe import Observed
from anneal_operator.stages import LOOK_AGAIN

RESYNC = 300.0
"""Seconds after which a deployment is looked at even if nothing happened."""
SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST_NAME = 50


def decide(observed: Observed, config: OperatorConfig, now: datetime) -> Decision:
    """Return what to do about a ModelDeployment; depends on nothing but the arguments."""
    draft = Draft(observed.resource, "ModelDeployment", observed.status, now)
    if observed.deleting or pause.holds(draft):
        return draft.decision()
    try:
        spec = observed.spec
    except ValidationError as error:
        draft.condition("Ready", False, "InvalidSpec", str(error), warning=True)
        return draft.decision()
    if not SERVICE_NAME.fullmatch(draft.name) or len(draft.name) > LONGEST_NAME:
        text = f"metadata.name: {draft.name!r} becomes a Service's name: letters, digits and '-', at most {LONGEST_NAME}"
        draft.condition("Ready", False, "InvalidName", text, warning=True)
        return draft.decision()
    _live(draft, observed, spec, config)
    return draft.decision()


def _live(
    draft: Draft[ModelDeploymentStatus],
    observed: Observed,
    spec: ModelDeploymentSpec,
    config: OperatorConfig,
) -> None:
    draft.wake(RESYNC)
    newest = _advance(draft, observed, spec, config)
    scale = _scale(draft, observed, spec)
    rollout.roll(draft, observed, spec, config, scale.replicas, newest)
    _stop_others(draft, observed, newest)
    versions.prune(draft, spec.rollout.revision_history_limit, newest)
    behind = rollout.routed(draft, observed, config)
    if behind:
        draft.apply += resources.gateway(behind, spec, rollout.trial(draft.status), config.gateway_env)
        if spec.autoscaling:
            draft.wake(autoscale.TICK)
    draft.update(
        desired_replicas=scale.replicas if _running(draft) else 0,
        scale_down_since=scale.down_since,
    )
    cost.charge(draft, observed, config)
    status.finish(draft, observed, newest)
    if {draft.status.replicas, draft.status.ready_replicas} != {draft.status.desired_replicas}:
        draft.wake(LOOK_AGAIN)


def _advance(
    draft: Draft[ModelDeploymentStatus],
    observed: Observed,
    spec: ModelDeploymentSpec,
    config: OperatorConfig,
) -> str | None:
    """Adopt and build; return the identity of the version that shall serve, None when there is none."""
    found = adoption.adopt(spec, draft.status, observed.jobs)
    draft.condition("Adopted", found.model is not None, found.reason, found.message)
    if found.model is None:
        return _serving(draft)
    if found.followed:
        draft.update(followed=found.followed)
    return _candidate(draft, observed, spec, config, found.model)


def _candidate(
    draft: Draft[ModelDeploymentStatus],
    observed: Observed,
    spec: ModelDeploymentSpec,
    config: OperatorConfig,
    model: ArtifactRef,
) -> str:
    version = versions.candidate(draft, spec, model)
    if rollback.held(draft.resource, version):
        return rollback.instead(draft, version)
    if version.stage == "Draining":
        # Wanted back before it was gone: its replicas are still there.
        version = versions.move(draft, version, "Starting")
    if version.stage not in (*versions.STICKY, "Serving", "Starting", "Canary"):
        build.build(draft, observed, spec, version, config)
    return version.run


def _serving(draft: Draft[ModelDeploymentStatus]) -> str | None:
    return next((v.run for v in versions.at(draft.status, "Serving")), None)


def _running(draft: Draft[ModelDeploymentStatus]) -> bool:
    return any(v.stage in ("Starting", "Canary", "Serving") for v in draft.status.versions)


def _scale(
    draft: Draft[ModelDeploymentStatus], observed: Observed, spec: ModelDeploymentSpec
) -> autoscale.Scale:
    """Return the replicas to run; the load counts only once there is somebody to carry it."""
    serving = bool(versions.at(draft.status, "Serving"))
    return autoscale.scale(
        spec,
        observed.load if serving else None,
        draft.status.desired_replicas if serving else None,
        draft.status.scale_down_since if serving else None,
        draft.now,
    )


def _stop_others(draft: Draft[ModelDeploymentStatus], observed: Observed, newest: str | None) -> None:
    """End the building of versions that nobody wants any more."""
    for job in observed.children.jobs.values():
        if job.active and job.version != newest:
            draft.remove(job)
