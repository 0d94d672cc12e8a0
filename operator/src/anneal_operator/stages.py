"""One stage that is one Job: made when it is missing, then followed to its end."""

from dataclasses import dataclass
from typing import Any, Literal

from anneal_api.outcome import Outcome
from anneal_operator import outcomes
from anneal_operator.decision import Object
from anneal_operator.draft import Draft
from anneal_operator.observed import Children, JobView
from anneal_operator.stuck import Stuck, diagnose, refused

LOOK_AGAIN = 30.0
"""Seconds between looks at a Job, for what no event tells: that nothing happens, or that an event was lost."""


@dataclass(frozen=True)
class Step:
    """Where a stage is. `silent`: it succeeded, and what it reported went away with its pod."""

    state: Literal["running", "succeeded", "silent", "failed"]
    job: JobView | None = None
    outcome: Outcome | None = None
    stuck: Stuck | None = None


def follow(draft: Draft[Any], children: Children, wanted: Object) -> Step:
    """Make the Job if it does not exist, and say where it is."""
    job = children.jobs.get(wanted["metadata"]["name"])
    if job is None:
        draft.create.append(wanted)
        draft.wake(LOOK_AGAIN)
        refusal = children.refused(wanted["metadata"]["name"])
        return Step("running", stuck=refused(refusal) if refusal else None)
    if job.deleting:
        draft.wake(2)
        return Step("running", job)
    if job.succeeded:
        outcome = outcomes.of_success(job)
        return Step("succeeded" if outcome else "silent", job, outcome)
    if job.failed:
        return Step("failed", job, outcomes.of_failure(job))
    draft.wake(LOOK_AGAIN)
    return Step("running", job, stuck=diagnose(job, draft.now))
