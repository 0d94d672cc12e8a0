"""From an adopted model to a version that may serve: inspect, plan, quantise, compile, measure, compare.

What a version has reached is written to the status, so a version that serves is never built again.
"""

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from anneal_api import sizing
from anneal_api.base import ArtifactRef
from anneal_api.modeldeployment import ModelDeploymentSpec, ModelDeploymentStatus, ServedVersion
from anneal_api.outcome import DeploymentInspection, GateResult, Outcome, PublishResult
from anneal_api.profiles import AcceleratorProfile, OperatorConfig
from anneal_api.runs import DeploymentRun
from anneal_operator import config as settings
from anneal_operator import plan, stages, stuck, times, uris
from anneal_operator.draft import Draft
from anneal_operator.modeldeployment import gate, resources, versions
from anneal_operator.modeldeployment.observe import Observed
from anneal_operator.modeldeployment.resources import Site
from anneal_operator.objects import STAGE_TRIES
from anneal_operator.observed import JobView

RETRY_FAILED = 600.0
"""Seconds until a stage that failed for a cause of its own is tried again."""
Building = Draft[ModelDeploymentStatus]


def site_of(draft: Building, observed: Observed, version: str, config: OperatorConfig) -> Site | None:
    """Return where a planned version's children are made, or None when it is not planned."""
    frozen = observed.plan(version)
    if frozen is None:
        return None
    quantizer = frozen.run.spec.quantization.accelerator
    measurer = frozen.run.spec.gate.accelerator
    return Site(
        draft.owner,
        frozen.run,
        version,
        frozen.config_map,
        frozen.images,
        settings.plain_cpu(config),
        config.accelerator(quantizer) if quantizer else None,
        config.accelerator(measurer) if measurer else None,
    )


def build(
    draft: Building,
    observed: Observed,
    spec: ModelDeploymentSpec,
    version: ServedVersion,
    config: OperatorConfig,
) -> None:
    """Take a version as far as it goes today."""
    site = site_of(draft, observed, version.run, config)
    if site is None:
        _inspect(draft, observed, spec, version, config)
        return
    draft.condition("Inspected", True, "Inspected", f"planned in ConfigMap {site.config_map}")
    if not version.engine:
        done = _quantize(draft, observed, site, version) and _compile(draft, observed, site, version)
        if not done:
            return
    version = versions.find(draft.status, version.run) or version
    _measure(draft, observed, spec, site, version)


def _inspect(
    draft: Building,
    observed: Observed,
    spec: ModelDeploymentSpec,
    version: ServedVersion,
    config: OperatorConfig,
) -> None:
    profile, reason, message = _checked(spec, version, config)
    if profile is None:
        draft.condition("Inspected", False, reason, message, warning=True)
        versions.move(draft, version, "Refused", message)
        return
    site = _inspect_site(draft, spec, version, profile, config)
    if site.config_map not in observed.children.config_maps:
        draft.create.append(resources.run_config(site))
    step = stages.follow(draft, observed.children, resources.stage(site, site.config_map, "inspect"))
    found = _outcome(draft, step, version, "Inspected", "Inspecting")
    if found:
        _accept(draft, observed, site, version, found, config)


def _checked(
    spec: ModelDeploymentSpec, version: ServedVersion, config: OperatorConfig
) -> tuple[AcceleratorProfile | None, str, str]:
    profile = config.accelerator(spec.accelerator)
    if profile is None:
        text = settings.unknown_accelerator(config, "spec.accelerator", spec.accelerator)
        return None, "UnknownAccelerator", text
    quantizer = spec.quantization.accelerator
    if quantizer and config.accelerator(quantizer) is None:
        text = settings.unknown_accelerator(config, "spec.quantization.accelerator", quantizer)
        return None, "UnknownAccelerator", text
    if complaint := _measured(spec, profile, config):
        return None, *complaint
    store = spec.storage.uri or uris.store_of(version.uri)
    if store is None:
        text = (
            f"spec.storage.uri: must be set, since the model {version.uri} does not lie in an artifact store"
        )
        return None, "StoreUnknown", text
    suites = uris.of_suites("spec.gate.suites", [suite.name for suite in spec.gate.suites])
    outside = uris.store_refusal(config, {"spec.model.uri": version.uri, "spec.storage.uri": store, **suites})
    return (None, "StoreNotAllowed", outside) if outside else (profile, "", "")


def _measured(
    spec: ModelDeploymentSpec, serving: AcceleratorProfile, config: OperatorConfig
) -> tuple[str, str] | None:
    """Return why the gate cannot run where it is asked to: an engine runs on the capability it was built for alone."""
    name = spec.gate.accelerator
    if name is None:
        return None
    profile = config.accelerator(name)
    if profile is None:
        return "UnknownAccelerator", settings.unknown_accelerator(config, "spec.gate.accelerator", name)
    if spec.engine.runtime == "openvino" or profile.compute_capability == serving.compute_capability:
        return None
    text = (
        f"spec.gate.accelerator: {name} has compute capability {profile.compute_capability}, the replicas' {serving.name} "
        f"has {serving.compute_capability}, and an engine runs where it was built for; name a profile of the same"
    )
    return "OtherCapability", text


def _inspect_site(
    draft: Building,
    spec: ModelDeploymentSpec,
    version: ServedVersion,
    profile: AcceleratorProfile,
    config: OperatorConfig,
) -> Site:
    run = DeploymentRun(
        namespace=draft.namespace,
        name=draft.name,
        uid=draft.uid,
        spec=spec,
        accelerator=profile,
        model=ArtifactRef(uri=version.uri, digest=version.digest),
        store=spec.storage.uri or uris.store_of(version.uri) or "",
    )
    site = Site(draft.owner, run, version.run, "", config.images, settings.plain_cpu(config), None)
    sandboxes = sorted(config.images.sandboxes or {})
    name = site.name("inspect", config.images.serving, profile.model_dump(mode="json"), *sandboxes)
    return Site(draft.owner, run, version.run, name, config.images, site.plain, None)


def _accept(
    draft: Building,
    observed: Observed,
    site: Site,
    version: ServedVersion,
    outcome: Outcome,
    config: OperatorConfig,
) -> None:
    found = _parsed(draft, version, "Inspected", outcome, DeploymentInspection.model_validate)
    if found is None:
        return
    pin = site.run.spec.model.version
    if pin and found.model.digest != pin:
        text = f"spec.model.version: {pin} is not the digest of {version.uri} ({found.model.digest})"
        _refuse(draft, version, "Inspected", "VersionNotFound", text)
        return
    need = sizing.serving(site.run.spec, found.shape, site.run.accelerator)
    if not need.fits:
        text = (
            f"accelerator {site.run.accelerator.name} is too small for one replica: {need.arithmetic}; choose a "
            f"larger spec.accelerator, or a smaller spec.engine.{_remedy(site.run)}"
        )
        _refuse(draft, version, "Inspected", "DoesNotFit", text)
        return
    run = site.run.model_copy(update={"inspection": found, "model": found.model})
    name = observed.plan_name(version.run)
    meta = resources.metadata(site, name, "plan", version.run)
    draft.create.append(plan.freeze(meta, run, config.images))
    if refusal := observed.children.refused(name):
        why = stuck.refused(refusal)
        draft.condition("Inspected", False, why.reason, why.message, warning=True)
        return
    quantizer = config.accelerator(site.run.spec.quantization.accelerator or "")
    text = "; ".join(
        filter(None, (need.arithmetic, sizing.quantizing(site.run.spec, found.shape, quantizer)))
    )
    draft.condition("Inspected", True, "Inspected", f"{found.shape.architecture}; {text}")
    versions.replace(draft, version.model_copy(update={"digest": found.model.digest}))
    draft.wake(1)


def _remedy(run: DeploymentRun) -> str:
    # OpenVINO takes the cache of all sequences at once; TensorRT-LLM lets them queue for it.
    return (
        "maxBatchSize or maxSequenceLength" if run.spec.engine.runtime == "openvino" else "maxSequenceLength"
    )


def _quantize(draft: Building, observed: Observed, site: Site, version: ServedVersion) -> bool:
    published = inspection(site).published
    if {"quantize", "engine"} & set(published):
        draft.condition("Quantized", True, "AlreadyPublished", site.artifact("quantize"))
        return True
    step = _follow(draft, observed, site, "quantize")
    if step.state != "silent" and not _outcome(draft, step, version, "Quantized", "Quantizing"):
        return False
    # That the Job succeeded is enough: where it publishes follows from its key.
    draft.condition("Quantized", True, "Published", site.artifact("quantize"))
    return True


def _compile(draft: Building, observed: Observed, site: Site, version: ServedVersion) -> bool:
    found, reason = inspection(site).published.get("engine"), "AlreadyPublished"
    if found is None:
        step = _follow(draft, observed, site, "engine")
        outcome = _outcome(draft, step, version, "Compiled", "Compiling")
        result = outcome and _parsed(draft, version, "Compiled", outcome, PublishResult.model_validate)
        if not result:
            return False
        found, reason = result.artifact, "Published"
    versions.replace(draft, _now(draft, version).model_copy(update={"engine": found.digest}))
    draft.condition("Compiled", True, reason, f"{found.uri} {found.digest}")
    return True


def _measure(
    draft: Building, observed: Observed, spec: ModelDeploymentSpec, site: Site, version: ServedVersion
) -> None:
    if version.gate is None:
        result = inspection(site).gate
        if result is None:
            outcome = _outcome(draft, _follow(draft, observed, site, "gate"), version, "GatePassed", "Gating")
            result = (
                _parsed(draft, version, "GatePassed", outcome, GateResult.model_validate) if outcome else None
            )
        if result is None:
            return
        version = versions.replace(
            draft, _now(draft, version).model_copy(update={"gate": gate.figures(result)})
        )
    _judge(draft, spec, version)


def _judge(draft: Building, spec: ModelDeploymentSpec, version: ServedVersion) -> None:
    assert version.gate is not None
    beyond = gate.beyond(spec.gate, version.gate)
    if beyond:
        _refuse(draft, version, "GatePassed", "BeyondBudget", beyond)
        return
    draft.condition("GatePassed", True, "WithinBudget", gate.shown(version.gate))
    versions.move(draft, version, "Starting")


def _follow(draft: Building, observed: Observed, site: Site, stage: str) -> stages.Step:
    return stages.follow(draft, observed.children, resources.stage(site, site.name(stage), stage))


def _outcome(
    draft: Building, step: stages.Step, version: ServedVersion, condition: str, stage: str
) -> Outcome | None:
    """Return what a stage that succeeded reported; otherwise say in the status where it is."""
    if step.state == "succeeded":
        return step.outcome
    if step.state == "failed" and step.job and step.outcome:
        _failed(draft, step.job, step.outcome, version, condition)
    elif step.state == "silent" and step.job:
        # Its pod went before it was read. Run again it finds its key published, and says so.
        draft.remove(step.job)
    else:
        why = step.stuck
        versions.move(draft, _now(draft, version), stage, why.message if why else "")
        reason, message = (why.reason, why.message) if why else (stage, "")
        draft.condition(condition, False, reason, message, warning=bool(why))
    return None


def _failed(draft: Building, job: JobView, outcome: Outcome, version: ServedVersion, condition: str) -> None:
    if outcome.verdict == "Refused":
        _refuse(draft, version, condition, outcome.reason, outcome.message)
        return
    text = f"Job {job.name} failed {STAGE_TRIES} times, last: {outcome.message}; it is tried again in a while"
    draft.condition(condition, False, outcome.reason, text, warning=True)
    versions.move(draft, _now(draft, version), "Failed", text)
    left = RETRY_FAILED - times.seconds_since(job.finished, draft.now)
    if left > 0:
        draft.wake(left)
    else:
        draft.remove(job)


def _refuse(draft: Building, version: ServedVersion, condition: str, reason: str, message: str) -> None:
    draft.condition(condition, False, reason, message, warning=True)
    versions.move(draft, _now(draft, version), "Refused", message)


def _parsed(
    draft: Building,
    version: ServedVersion,
    condition: str,
    outcome: Outcome,
    parse: Callable[[Any], Any],
) -> Any:
    try:
        return parse(outcome.result)
    except ValidationError as error:
        _refuse(draft, version, condition, "ContractMismatch", str(error))
        return None


def _now(draft: Building, version: ServedVersion) -> ServedVersion:
    return versions.find(draft.status, version.run) or version


def inspection(site: Site) -> DeploymentInspection:
    """Return what inspection found out; a plan always has it."""
    assert site.run.inspection is not None
    return site.run.inspection
