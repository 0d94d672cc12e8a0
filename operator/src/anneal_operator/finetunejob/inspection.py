"""From a spec to a plan: refuse what cannot work before any accelerator is asked for, then freeze the rest.

A verdict holds for one spec: the inspect Job's name carries a hash of it, so a corrected spec is inspected anew.
"""

from pydantic import ValidationError

from anneal_api import memory, sizing
from anneal_api.base import wire
from anneal_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus, MemoryPlan
from anneal_api.outcome import FineTuneInspection, Outcome
from anneal_api.profiles import AcceleratorProfile, OperatorConfig
from anneal_api.runs import FineTuneRun
from anneal_operator import config as settings
from anneal_operator import naming, plan, stages, stuck, times, uris
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import resources
from anneal_operator.finetunejob.observe import Observed
from anneal_operator.finetunejob.resources import Site
from anneal_operator.observed import JobView

RETRY_FAILED = 60.0
"""Seconds until an inspection that failed for a cause of its own is repeated."""
RETRY_REFUSED = 600.0
"""Seconds until a refused spec is looked at again: a missing file may have been put there meanwhile."""


def inspect(
    draft: Draft[FineTuneJobStatus], observed: Observed, spec: FineTuneJobSpec, config: OperatorConfig
) -> None:
    """Check the spec, have it inspected, and plan the run once the verdict is good."""
    profile = config.accelerator(spec.workers.accelerator)
    if profile is None or _refuse(draft, spec, config):
        if profile is None:
            text = settings.unknown_accelerator(config, "spec.workers.accelerator", spec.workers.accelerator)
            draft.condition("Inspected", False, "UnknownAccelerator", text, warning=True)
        return
    site = _site(draft, spec, profile, config)
    _drop_outdated(draft, observed, site)
    if site.config_map not in observed.children.config_maps:
        draft.create.append(resources.run_config(site))
    step = stages.follow(draft, observed.children, resources.stage(site, site.config_map, "inspect"))
    _conclude(draft, observed, site, step, config)


def _refuse(draft: Draft[FineTuneJobStatus], spec: FineTuneJobSpec, config: OperatorConfig) -> bool:
    stores = {
        "spec.baseModel.uri": spec.base_model.uri,
        "spec.output.uri": spec.output.uri,
        **{f"spec.tasks[{task.name}].data.uri": task.data.uri for task in spec.tasks},
        **uris.of_suites("spec.data.decontaminate", spec.data.decontaminate),
        **uris.of_suites("spec.evaluation.suites", spec.evaluation.suites),
    }
    outside = uris.store_refusal(config, stores)
    if outside:
        draft.condition("Inspected", False, "StoreNotAllowed", outside, warning=True)
    return bool(outside)


def _site(
    draft: Draft[FineTuneJobStatus],
    spec: FineTuneJobSpec,
    profile: AcceleratorProfile,
    config: OperatorConfig,
) -> Site:
    image = config.images.trainers
    content = (resources.fixed_part(spec), wire(profile), image, *sorted(config.images.sandboxes or {}))
    run = FineTuneRun(
        namespace=draft.namespace, name=draft.name, uid=draft.uid, spec=spec, accelerator=profile
    )
    name = naming.child_name(draft.name, "inspect", draft.uid, *content)
    return Site(
        draft.owner,
        draft.namespace,
        run,
        name,
        image,
        settings.plain_cpu(config),
        config.images.judges(image),
    )


def _drop_outdated(draft: Draft[FineTuneJobStatus], observed: Observed, site: Site) -> None:
    for job in observed.children.of_stage("inspect"):
        if job.name != site.config_map:
            draft.remove(job)


def _conclude(
    draft: Draft[FineTuneJobStatus],
    observed: Observed,
    site: Site,
    step: stages.Step,
    config: OperatorConfig,
) -> None:
    if step.state == "running":
        why = step.stuck
        text = why.message if why else "model, data and store are being looked at"
        draft.condition("Inspected", False, why.reason if why else "Inspecting", text, warning=bool(why))
    elif step.job and step.outcome is None:
        draft.remove(step.job)
    elif step.job and step.outcome and step.state == "failed":
        _refused(draft, step.job, step.outcome)
    elif step.outcome:
        _accepted(draft, observed, site, step.outcome, config)


def _refused(draft: Draft[FineTuneJobStatus], job: JobView, outcome: Outcome) -> None:
    draft.condition("Inspected", False, outcome.reason, outcome.message, warning=True)
    again = RETRY_REFUSED if outcome.verdict == "Refused" else RETRY_FAILED
    left = again - times.seconds_since(job.finished, draft.now)
    if left > 0:
        draft.wake(left)
    else:
        draft.remove(job)


def _accepted(
    draft: Draft[FineTuneJobStatus],
    observed: Observed,
    site: Site,
    outcome: Outcome,
    config: OperatorConfig,
) -> None:
    try:
        found = FineTuneInspection.model_validate(outcome.result)
    except ValidationError as error:
        draft.condition("Inspected", False, "ContractMismatch", str(error), warning=True)
        return
    rows = ", ".join(f"{task.name} {task.rows}" for task in found.tasks)
    draft.condition("Inspected", True, "Inspected", f"{found.shape.architecture}; rows: {rows}")
    if _fits(draft, site.run, found):
        _freeze(draft, observed, site, found, config)


def _fits(draft: Draft[FineTuneJobStatus], run: FineTuneRun, found: FineTuneInspection) -> bool:
    need = sizing.training(run.spec, found.shape, run.accelerator)
    gib = memory.GIB
    shown = MemoryPlan(
        needed=f"{need.needed / gib:.2f}", available=f"{need.available / gib:.2f}", detail=need.arithmetic
    )
    draft.update(plan=shown)
    if not need.fits:
        text = (
            f"accelerator {run.accelerator.name} is too small for one rank: {need.arithmetic}; choose a larger "
            f"spec.workers.accelerator, a smaller spec.data.maxLength or spec.adapter.rank"
        )
        draft.condition("PlanReady", False, "DoesNotFit", text, warning=True)
    return need.fits


def _freeze(
    draft: Draft[FineTuneJobStatus],
    observed: Observed,
    site: Site,
    found: FineTuneInspection,
    config: OperatorConfig,
) -> None:
    run = site.run.model_copy(update={"inspection": found})
    name = naming.child_name(draft.name, "plan", draft.uid)
    made = plan.freeze(resources.metadata(site, name, "plan"), run, config.images)
    draft.create.append(made)
    if refusal := observed.children.refused(name):
        why = stuck.refused(refusal)
        draft.condition("PlanReady", False, why.reason, why.message, warning=True)
        return
    identity = plan.identity(made["data"])
    draft.condition("PlanReady", True, "Planned", f"plan {identity} is kept in ConfigMap {name}")
    draft.update(run=identity)
    draft.wake(1)
