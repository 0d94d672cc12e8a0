"""The list of versions in the status: found by the identity of what they are made of, newest adopted last."""

from datetime import datetime

from anneal_api.base import ArtifactRef
from anneal_api.modeldeployment import ModelDeploymentSpec, ModelDeploymentStatus, ServedVersion
from anneal_operator import naming, times
from anneal_operator.draft import Draft
from anneal_operator.modeldeployment.resources import build_part

LIVE = ("Starting", "Canary", "Serving", "Draining")
"""Stages in which a version has replicas."""
STICKY = ("TimedOut", "RolledBack")
"""Stages in which a version stays until it is changed."""
MOST = 20


def identity(uid: str, spec: ModelDeploymentSpec, model: ArtifactRef) -> str:
    """Return the name of a version: what it is made of, and for whom."""
    # The digest is left out: by uri it is unknown at first, and an artifact's address names its content.
    return naming.short_hash(uid, model.uri, spec.model.version, build_part(spec))


def _identity(draft: Draft[ModelDeploymentStatus], spec: ModelDeploymentSpec, model: ArtifactRef) -> str:
    """Return a model's identity; a pin to what is known without one, and has that digest, is that very version."""
    free = spec.model_copy(update={"model": spec.model.model_copy(update={"version": None})})
    unpinned = find(draft.status, identity(draft.uid, free, model))
    if spec.model.version and unpinned and unpinned.digest == spec.model.version:
        return unpinned.run
    return identity(draft.uid, spec, model)


def find(status: ModelDeploymentStatus, run: str) -> ServedVersion | None:
    """Return the version of that identity, or None."""
    return next((v for v in status.versions if v.run == run), None)


def at(status: ModelDeploymentStatus, stage: str) -> list[ServedVersion]:
    """Return the versions at a stage."""
    return [v for v in status.versions if v.stage == stage]


def candidate(
    draft: Draft[ModelDeploymentStatus], spec: ModelDeploymentSpec, model: ArtifactRef
) -> ServedVersion:
    """Return the version to build or serve, entered as the newest if it is not that already."""
    run = _identity(draft, spec, model)
    known = find(draft.status, run)
    entry = known or ServedVersion(digest=model.digest, uri=model.uri, run=run)
    others = [v for v in draft.status.versions if v.run != run]
    draft.update(versions=[*others, entry])
    return entry


def replace(draft: Draft[ModelDeploymentStatus], version: ServedVersion) -> ServedVersion:
    """Store a changed version in its place."""
    changed = [version if v.run == version.run else v for v in draft.status.versions]
    draft.update(versions=changed)
    return version


def move(
    draft: Draft[ModelDeploymentStatus], version: ServedVersion, stage: str, message: str = ""
) -> ServedVersion:
    """Bring a version to a stage; its time moves only when the stage does."""
    since = version.since if version.stage == stage and version.since else times.stamp(draft.now)
    return replace(
        draft, version.model_copy(update={"stage": stage, "since": since, "message": message[:4096]})
    )


def prune(draft: Draft[ModelDeploymentStatus], keep: int, newest: str | None) -> None:
    """Forget versions that neither serve nor are about to, beyond the newest `keep`."""
    idle = [v.run for v in draft.status.versions if v.stage not in LIVE and v.run != newest]
    gone = set(idle[: max(0, len(idle) - keep)])
    draft.update(versions=[v for v in draft.status.versions if v.run not in gone][-MOST:])


def age(version: ServedVersion, now: datetime) -> float:
    """Return the seconds a version has been at its stage."""
    return times.seconds_since(version.since, now) if version.since else 0.0
