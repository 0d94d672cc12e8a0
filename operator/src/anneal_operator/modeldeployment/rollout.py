"""How a new version takes over: share by share, watched at each, and back at the first complaint.

    Starting (replicas for the next share) -> Canary (has the share, is watched) -> ... -> Canary at 100 -> Serving

`trafficPercent` says how far it has come. With no version to compare with it serves as soon as it is ready.
"""

from anneal_api.base import LABEL_VERSION
from anneal_api.modeldeployment import ModelDeploymentSpec, ModelDeploymentStatus, Rollout, ServedVersion
from anneal_api.profiles import OperatorConfig
from anneal_operator import naming, stuck
from anneal_operator.decision import Object
from anneal_operator.draft import Draft
from anneal_operator.modeldeployment import build, canary, gate, resources, retire, rollback, shares, versions
from anneal_operator.modeldeployment.autoscale import TICK
from anneal_operator.modeldeployment.observe import Observed
from anneal_operator.modeldeployment.retire import version_of
from anneal_operator.modeldeployment.shares import Replicas

Rolling = Draft[ModelDeploymentStatus]


def roll(
    draft: Rolling,
    observed: Observed,
    spec: ModelDeploymentSpec,
    config: OperatorConfig,
    count: int,
    newest: str | None,
) -> None:
    """Bring replicas to what the versions' stages say, and the stages to what the replicas are."""
    for version in coming(draft.status):
        if version.run != newest:
            _withdraw(draft, version)
    for version in coming(draft.status):
        _step(draft, observed, spec, count, version)
    for version in draft.status.versions:
        site = build.site_of(draft, observed, version.run, config)
        if site and version.stage in ("Starting", "Canary", "Serving"):
            wanted = _wanted(draft, spec.rollout, count, version)
            draft.apply += [resources.replicas_service(site), resources.replicas(site, wanted)]
    retire.drain(draft, spec.rollout)
    retire.remove_idle(draft, observed, spec.rollout)


def coming(status: ModelDeploymentStatus) -> list[ServedVersion]:
    """Return the versions on their way to serve: one, or none."""
    return [*versions.at(status, "Starting"), *versions.at(status, "Canary")]


def serving(status: ModelDeploymentStatus) -> ServedVersion | None:
    """Return the version that serves; while another one is on its way, the one it is measured by."""
    return next(iter(versions.at(status, "Serving")), None)


def trial(status: ModelDeploymentStatus) -> str:
    """Return the name of the step that a rollout is at; empty when none has traffic."""
    new = next((v for v in coming(status) if v.traffic_percent), None)
    return naming.short_hash(new.run, new.traffic_percent, new.stage, new.since) if new else ""


def _withdraw(draft: Rolling, version: ServedVersion) -> None:
    """Another version is wanted."""
    why = (
        rollback.HELD
        if rollback.held(draft.resource, version)
        else "another version was wanted before it served"
    )
    stage = "Draining" if version.traffic_percent else "Superseded"
    _shares(draft, version, 0)
    versions.move(draft, _now(draft, version), stage, why)


def _step(
    draft: Rolling, observed: Observed, spec: ModelDeploymentSpec, count: int, version: ServedVersion
) -> None:
    trouble = _complaint(spec, observed, version)
    if trouble:
        _roll_back(draft, version, trouble)
    elif version.stage == "Starting":
        _start(draft, observed, spec.rollout, count, version)
    else:
        _watch(draft, observed, spec.rollout, count, version)


def _complaint(spec: ModelDeploymentSpec, observed: Observed, version: ServedVersion) -> str:
    """Return what speaks against a version that has traffic: what it does there, or a gate that is narrower now."""
    if not version.traffic_percent:
        return ""
    beyond = gate.beyond(spec.gate, version.gate) if version.gate else ""
    return beyond or (canary.complaint(spec.rollout, observed.trial) if observed.trial else "")


def _start(draft: Rolling, observed: Observed, rules: Rollout, count: int, version: ServedVersion) -> None:
    limit = rules.progress_deadline_seconds
    if _ready(draft, observed, rules, count, version):
        _take(draft, rules, version)
    elif versions.age(version, draft.now) <= limit:
        draft.wake(limit - versions.age(version, draft.now))
    else:
        text = f"not ready within spec.rollout.progressDeadlineSeconds: {limit}; {trouble(draft, observed, version)}"
        if version.traffic_percent:
            _roll_back(draft, version, text)
        else:
            versions.move(draft, version, "TimedOut", text)


def _take(draft: Rolling, rules: Rollout, version: ServedVersion) -> None:
    """Give a version that is ready its next share."""
    percent = _next(draft, rules, version)
    if percent == 100 and _straight(draft):
        _serve(draft, version, "is ready")
        return
    _shares(draft, version, percent)
    versions.move(draft, _now(draft, version), "Canary", f"{percent}% of the requests")
    draft.event(
        "Canary",
        f"version {version.run} gets {percent}% of the requests",
        "canary",
        version.run,
        str(percent),
        version.since,
    )
    draft.wake(TICK)


def _watch(draft: Rolling, observed: Observed, rules: Rollout, count: int, version: ServedVersion) -> None:
    draft.wake(TICK)
    seen = observed.trial
    long_enough = not rules.pause_seconds or (seen and (seen.seconds or 0) >= rules.pause_seconds)
    if long_enough and _ready(draft, observed, rules, count, version):
        text = canary.shown(seen) if seen else ""
        if version.traffic_percent == 100:
            _serve(draft, version, text)
        else:
            versions.move(draft, version, "Starting", f"at {version.traffic_percent}%: {text}")
            draft.wake(1)
    elif versions.age(version, draft.now) > rules.pause_seconds + rules.progress_deadline_seconds:
        text = "its replicas are not ready, or not every gateway tells how it does"
        _roll_back(draft, version, f"{text}; {trouble(draft, observed, version)}")


def _serve(draft: Rolling, version: ServedVersion, why: str) -> None:
    for old in versions.at(draft.status, "Serving"):
        said = rollback.HELD if rollback.held(draft.resource, old) else ""
        versions.move(draft, old.model_copy(update={"traffic_percent": 0}), "Draining", said)
    versions.move(draft, _now(draft, version).model_copy(update={"traffic_percent": 100}), "Serving")
    text = f"version {version.run} serves ({version.digest}): {why}"
    draft.event("TookOver", text, "served", version.run, version.since)


def _roll_back(draft: Rolling, version: ServedVersion, why: str) -> None:
    """Give all traffic back to the version that serves."""
    at = version.traffic_percent
    _shares(draft, version, 0)
    versions.move(draft, _now(draft, version), "RolledBack", f"at {at}%: {why}")
    text = f"version {version.run} at {at}%: {why}"
    draft.event("RolledBack", text, "rolled back", version.run, version.since, warning=True)


def _shares(draft: Rolling, version: ServedVersion, percent: int) -> None:
    versions.replace(draft, version.model_copy(update={"traffic_percent": percent}))
    for old in versions.at(draft.status, "Serving"):
        versions.replace(draft, old.model_copy(update={"traffic_percent": 100 - percent}))


def _now(draft: Rolling, version: ServedVersion) -> ServedVersion:
    return versions.find(draft.status, version.run) or version


def _straight(draft: Rolling) -> bool:
    """Whether a version takes over without steps: none serves, or the one that does is held back."""
    old = serving(draft.status)
    return old is None or rollback.held(draft.resource, old)


def _next(draft: Rolling, rules: Rollout, version: ServedVersion) -> int:
    return 100 if _straight(draft) else shares.following(rules, version.traffic_percent)


def _replicas(draft: Rolling, rules: Rollout, count: int, version: ServedVersion) -> Replicas:
    """Return the replicas of either version while `version` is on its way."""
    if serving(draft.status) is None:
        return Replicas(0, count)
    percent = _next(draft, rules, version) if version.stage == "Starting" else version.traffic_percent
    return shares.replicas(rules, count, percent)


def _wanted(draft: Rolling, rules: Rollout, count: int, version: ServedVersion) -> int:
    new = next(iter(coming(draft.status)), None)
    if new is None:
        return count
    both = _replicas(draft, rules, count, new)
    return both.new if version.run == new.run else both.old


def _ready(draft: Rolling, observed: Observed, rules: Rollout, count: int, version: ServedVersion) -> bool:
    deployment = of_version(observed, version.run)
    return deployment is not None and ready(deployment) >= _replicas(draft, rules, count, version).new


def of_version(observed: Observed, run: str) -> Object | None:
    """Return the Deployment of a version, or None."""
    return next((d for d in observed.children.deployments.values() if version_of(d) == run), None)


def ready(deployment: Object) -> int:
    """Return a Deployment's ready replicas, none while its status is not about its newest spec."""
    status, meta = deployment.get("status", {}), deployment["metadata"]
    if status.get("observedGeneration", 0) < meta.get("generation", 0):
        return 0
    return int(status.get("readyReplicas", 0))


def trouble(draft: Rolling, observed: Observed, version: ServedVersion) -> str:
    """Return what is known to keep a version's replicas from being ready; empty when nothing is."""
    own = [p for p in observed.children.pods if p.labels.get(LABEL_VERSION) == version.run]
    found = (stuck.diagnose_pod(pod, draft.now) for pod in own)
    return next((f"{why.reason}: {why.message}" for why in found if why), "")


def routed(draft: Rolling, observed: Observed, config: OperatorConfig) -> list[resources.Routed]:
    """Return the versions behind the gateway, the one that serves first."""
    with_traffic = [v for v in coming(draft.status) if v.traffic_percent]
    found = [
        (build.site_of(draft, observed, v.run, config), v)
        for v in [*versions.at(draft.status, "Serving"), *with_traffic]
    ]
    return [resources.Routed(site, site.engine(v.engine), v.traffic_percent) for site, v in found if site]
