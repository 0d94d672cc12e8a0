"""The way through a FineTuneJob: deleted, finished, suspended, inspected, planned, run; the first that holds decides."""

from datetime import datetime

from pydantic import ValidationError

from anneal_api.base import Condition
from anneal_api.finetunejob import FineTuneJobSpec, FineTuneJobStatus
from anneal_api.profiles import OperatorConfig
from anneal_operator import conditions, pause
from anneal_operator.decision import Decision
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import (
    cost,
    deadline,
    deletion,
    finish,
    inspection,
    pipeline,
    resources,
    retry,
    status,
    suspend,
)
from anneal_operator.finetunejob.observe import Observed

RESYNC = 300.0
"""Seconds after which a job that is not finished is looked at even if nothing happened."""


def decide(observed: Observed, config: OperatorConfig, now: datetime) -> Decision:
    """Return what to do about a FineTuneJob; depends on nothing but the arguments."""
    draft = Draft(observed.resource, "FineTuneJob", observed.status, now)
    if observed.deleting:
        deletion.release(draft, observed, config)
        return draft.decision()
    if pause.holds(draft):
        return draft.decision()
    try:
        spec = observed.spec
    except ValidationError as error:
        draft.condition("Inspected", False, "InvalidSpec", str(error), warning=True)
        return draft.decision()
    _live(draft, observed, spec, config)
    draft.update(accelerator_seconds=cost.charged(observed.status, draft.status, spec))
    status.finish(draft, spec)
    return draft.decision()


def _live(
    draft: Draft[FineTuneJobStatus], observed: Observed, spec: FineTuneJobSpec, config: OperatorConfig
) -> None:
    draft.protect(spec.output.deletion_policy == "Delete")
    retry.heed(draft)
    if finish.is_finished(draft.status):
        finish.clean_up(draft, observed, spec)
        return
    draft.wake(RESYNC)
    if deadline.passed(draft, spec) or suspend.holds(draft, observed, spec):
        finish.clean_up(draft, observed, spec)
        return
    deadline.start(draft, spec)
    if retry.clears(draft, observed):
        return
    plan = observed.plan
    if plan is None:
        inspection.inspect(draft, observed, spec, config)
        return
    _note_changes(draft, plan.run.spec, spec)
    pipeline.run(draft, observed, plan, spec, config)
    finish.clean_up(draft, observed, spec)


def _note_changes(draft: Draft[FineTuneJobStatus], planned: FineTuneJobSpec, spec: FineTuneJobSpec) -> None:
    changed = resources.changed_fields(planned, spec)
    if changed:
        fields = ", ".join(f"spec.{name}" for name in changed)
        draft.condition(
            "SpecFollowed",
            False,
            "SpecChanged",
            f"{fields} changed after this run was planned and has no effect on it; create another FineTuneJob "
            f"for the new values (stages whose inputs are the same are not run again), or restore the old ones",
            warning=True,
        )
    elif conditions.find(draft.status.conditions, "SpecFollowed"):
        kept: list[Condition] = [c for c in draft.status.conditions if c.type != "SpecFollowed"]
        draft.update(conditions=kept)
