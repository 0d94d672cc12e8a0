"""The stages of a planned run: prepare (shards of much data first), train, then evaluate and export side by side, then
suites on what was exported.

A stage whose key is published is not run again. What a stage published is written to the status, so its Job and
pod may go; a pod that went before it was read is made up for by inspecting the store once more.
"""

from anneal_api.artifacts import DATA_REPORT
from anneal_api.base import ArtifactRef
from anneal_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from anneal_api.outcome import EvaluateResult, Outcome, PublishResult, SuitesResult
from anneal_api.profiles import OperatorConfig
from anneal_api.runs import FineTuneRun
from anneal_operator import conditions, stages
from anneal_operator import config as settings
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import finish, recovery, resources, status, training
from anneal_operator.finetunejob.observe import Observed
from anneal_operator.finetunejob.resources import Site
from anneal_operator.plan import Plan

PUBLISHES = {
    "prepare": ("dataset", "DataPrepared"),
    "evaluate": ("evaluation", "Evaluated"),
    "export": ("merged", "Exported"),
    "suites": ("suites", "SuitesScored"),
}
"""Stage to the status field and the condition it fills."""


def run(
    draft: Draft[FineTuneJobStatus],
    observed: Observed,
    plan: Plan[FineTuneRun],
    spec: FineTuneJobSpec,
    config: OperatorConfig,
) -> None:
    """Take the run as far as it goes today."""
    site = Site(
        draft.owner,
        draft.namespace,
        plan.run,
        plan.config_map,
        plan.images.trainers,
        settings.plain_cpu(config),
        plan.images.judges(plan.images.trainers),
    )
    _restore(draft, plan)
    last = ["evaluate", "export"] if plan.run.spec.output.merge else ["evaluate"]
    if not _prepare(draft, observed, site, last):
        return
    if not training.train(draft, observed, site, spec):
        return
    published = [_publish(draft, observed, site, stage) for stage in last]
    if not all(published):
        return
    if not plan.run.spec.evaluation.suites or _publish(draft, observed, site, "suites"):
        finish.complete(draft)


def _restore(draft: Draft[FineTuneJobStatus], plan: Plan[FineTuneRun]) -> None:
    """Say again what a plan implies, in case the status was lost."""
    draft.update(run=plan.identity)
    if not conditions.is_true(draft.status.conditions, "Inspected"):
        draft.condition("Inspected", True, "Inspected", f"see ConfigMap {plan.config_map}")
    if not conditions.is_true(draft.status.conditions, "PlanReady"):
        draft.condition("PlanReady", True, "Planned", f"plan {plan.identity} is kept in {plan.config_map}")


def _prepare(draft: Draft[FineTuneJobStatus], observed: Observed, site: Site, last: list[str]) -> bool:
    published = recovery.inspection(site).published
    if "prepare" not in published and all(stage in published for stage in ["train", *last]):
        if not conditions.is_true(draft.status.conditions, "DataPrepared"):
            draft.condition("DataPrepared", True, "NotNeeded", "all that is made of the data is published")
        return True
    return _read(draft, observed, site) and _publish(draft, observed, site, "prepare")


def _read(draft: Draft[FineTuneJobStatus], observed: Observed, site: Site) -> bool:
    """Return whether all shards of the data are there, or none is needed, after doing what gets them there."""
    found, name = recovery.inspection(site), site.name("shard")
    begun = site.name("prepare") in observed.children.jobs
    if found.shards == 1 or begun or "prepare" in found.published or draft.status.artifacts.dataset:
        return True
    step = stages.follow(draft, observed.children, resources.shards(site, name, found.shards))
    if step.state == "running":
        done = sum(pod.exit_code == 0 for pod in step.job.pods) if step.job else 0
        _running(draft, "DataPrepared", f"Job {name}: {done} of {found.shards} shards", step)
    elif step.state == "failed":
        _failed(draft, "shard", "DataPrepared", step)
    return step.state in ("succeeded", "silent")


def _publish(draft: Draft[FineTuneJobStatus], observed: Observed, site: Site, stage: str) -> bool:
    """Return whether a stage's artifact is published, after doing what gets it there."""
    field, condition = PUBLISHES[stage]
    if getattr(draft.status.artifacts, field):
        return True
    found = recovery.inspection(site).published.get(stage)
    if found:
        _published(draft, stage, found, "AlreadyPublished")
        if stage == "evaluate":
            draft.update(scores=status.scores(recovery.inspection(site).scores, site.run.spec))
        if stage == "suites":
            draft.update(suite_scores=status.suite_scores(recovery.inspection(site).suite_scores))
        return True
    step = stages.follow(draft, observed.children, resources.stage(site, site.name(stage), stage))
    if step.state == "running":
        _running(draft, condition, f"Job {site.name(stage)}", step)
        return False
    return _ended(draft, observed, site, stage, step)


def _running(draft: Draft[FineTuneJobStatus], condition: str, told: str, step: stages.Step) -> None:
    stuck = step.stuck
    reason, message = (stuck.reason, stuck.message) if stuck else ("Running", told)
    draft.condition(condition, False, reason, message, warning=bool(stuck))


def _failed(draft: Draft[FineTuneJobStatus], stage: str, condition: str, step: stages.Step) -> None:
    if step.outcome:
        draft.condition(condition, False, step.outcome.reason, step.outcome.message)
        finish.fail(draft, step.outcome.reason, f"stage {stage}: {step.outcome.message}")


def _ended(
    draft: Draft[FineTuneJobStatus], observed: Observed, site: Site, stage: str, step: stages.Step
) -> bool:
    if step.state == "silent":
        return _recover(draft, observed, site, stage)
    if step.state == "failed":
        _failed(draft, stage, PUBLISHES[stage][1], step)
        return False
    if step.outcome:
        _record(draft, site, stage, step.outcome)
    return True


def _record(draft: Draft[FineTuneJobStatus], site: Site, stage: str, outcome: Outcome) -> None:
    if stage == "evaluate":
        result = EvaluateResult.model_validate(outcome.result)
        draft.update(scores=status.scores(result.scores, site.run.spec))
        _published(draft, stage, result.artifact, "Published")
    elif stage == "suites":
        scored = SuitesResult.model_validate(outcome.result)
        draft.update(suite_scores=status.suite_scores(scored.scores))
        _published(draft, stage, scored.artifact, "Published")
    else:
        _published(draft, stage, PublishResult.model_validate(outcome.result).artifact, "Published")


def _recover(draft: Draft[FineTuneJobStatus], observed: Observed, site: Site, stage: str) -> bool:
    found, known = recovery.recovered(draft, observed, site, stage)
    if not known:
        return False
    if found is None:
        finish.fail(
            draft, "ResultLost", f"Job {site.name(stage)} succeeded, but its artifact is not in the store"
        )
        return False
    _published(draft, stage, found, "Published")
    return True


def _published(draft: Draft[FineTuneJobStatus], stage: str, ref: ArtifactRef, reason: str) -> None:
    field, condition = PUBLISHES[stage]
    link = {"report": f"{ref.uri}/{DATA_REPORT}"} if stage == "prepare" else {}
    draft.update(artifacts=draft.status.artifacts.model_copy(update={field: ref, **link}))
    draft.condition(condition, True, reason, f"{ref.uri} {ref.digest}")
