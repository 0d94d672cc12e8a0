"""deletionPolicy Delete: what the job has published is removed before the job itself goes."""

from pydantic import ValidationError

from anneal_api.base import LABEL_STAGE
from anneal_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from anneal_api.profiles import OperatorConfig
from anneal_operator import config as settings
from anneal_operator import stages, times
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import resources
from anneal_operator.finetunejob.observe import Observed
from anneal_operator.finetunejob.resources import Site
from anneal_operator.observed import JobView

RETRY = 300.0
"""Seconds until a failed removal is tried again."""


def release(draft: Draft[FineTuneJobStatus], observed: Observed, config: OperatorConfig) -> None:
    """Stop what runs, remove the artifacts if that is wanted, then let the job go."""
    if observed.plan is None or not _wanted(observed):
        draft.protect(False)
        return
    draft.update(phase="Deleting")
    if _stop(draft, observed):
        draft.wake(3)
        return
    run = observed.plan.run
    site = Site(
        draft.owner,
        draft.namespace,
        run,
        observed.plan.config_map,
        config.images.trainers,
        settings.plain_cpu(config),
    )
    step = stages.follow(draft, observed.children, resources.artifact_deletion(site, site.name("delete")))
    _conclude(draft, step)


def _wanted(observed: Observed) -> bool:
    try:
        spec: FineTuneJobSpec = observed.spec
    except ValidationError:
        return False
    return spec.output.deletion_policy == "Delete"


def _stop(draft: Draft[FineTuneJobStatus], observed: Observed) -> bool:
    """End all other Jobs, and return whether something may still write."""
    jobs = [job for job in observed.children.jobs.values() if job.stage != "delete"]
    for job in jobs:
        if job.active:
            draft.remove(job)
    loose = [pod for pod in observed.children.pods if not pod.over]
    return any(_busy(job) for job in jobs) or any(p.labels.get(LABEL_STAGE) != "delete" for p in loose)


def _busy(job: JobView) -> bool:
    return job.active or any(not pod.over for pod in job.pods)


def _conclude(draft: Draft[FineTuneJobStatus], step: stages.Step) -> None:
    if step.state in ("succeeded", "silent"):
        draft.event("ArtifactsDeleted", "what this job published is removed", "deleted")
        draft.protect(False)
    elif step.state == "failed" and step.job and step.outcome:
        text = (
            f"{step.outcome.message}; it is tried again, or set spec.output.deletionPolicy to Retain to let the "
            f"job go without removing its artifacts"
        )
        draft.condition("ArtifactsDeleted", False, step.outcome.reason, text, warning=True)
        left = RETRY - times.seconds_since(step.job.finished, draft.now)
        draft.wake(left) if left > 0 else draft.remove(step.job)
    else:
        draft.condition(
            "ArtifactsDeleted",
            False,
            step.stuck.reason if step.stuck else "Deleting",
            step.stuck.message if step.stuck else "what this job published is being removed",
            warning=bool(step.stuck),
        )
