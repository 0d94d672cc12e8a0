"""An attempt's end: recorded with its cause and what was lost, judged, and the node that was to blame left out."""

from pydantic import ValidationError

from anneal_api.finetunejob import Attempt, FineTuneJobSpec, FineTuneJobStatus
from anneal_api.outcome import TrainReached
from anneal_api.runs import attempt_folder
from anneal_operator import outcomes, times
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import attempts, avoid, faults, finish
from anneal_operator.finetunejob.causes import POLICIES, Cause, End
from anneal_operator.finetunejob.faults import Judgement
from anneal_operator.finetunejob.resources import Site
from anneal_operator.observed import JobView


def conclude(
    draft: Draft[FineTuneJobStatus], site: Site, spec: FineTuneJobSpec, job: JobView, end: End
) -> None:
    """End the current attempt and say what follows; its Job goes, unless it has failed and shows why."""
    judgement = faults.judge(end, draft.status, spec.fault_policy, draft.now)
    _record(draft, site, job, end)
    _charge(draft, spec, judgement)
    if job.active:
        draft.remove(job)
    draft.condition("Training", False, end.reason, end.message, quiet=True)
    if judgement.fatal:
        finish.fail(draft, end.reason, f"attempt {job.attempt}: {end.message}; {judgement.fatal}")
        return
    text = f"attempt {job.attempt} ({end.cause}){_where(draft.status.attempts[-1])}: {end.message}"
    draft.event("AttemptEnded", text, "attempt", str(job.attempt), warning=True)
    if end.node and POLICIES[end.cause].blames_node:
        unused = not draft.status.attempts[-1].training
        avoid.blame(draft, end.node, same=unused and end.cause == Cause.NODE_LOST)
    draft.wake(faults.delay(draft.status, draft.uid))


def _where(attempt: Attempt) -> str:
    node = f" on node {attempt.node}" if attempt.node else ""
    return node + (f", {attempt.lost_steps} steps lost" if attempt.lost_steps is not None else "")


def _record(draft: Draft[FineTuneJobStatus], site: Site, job: JobView, end: End) -> None:
    reached = _said(job) or (None if POLICIES[end.cause].saves else _seen(draft.status))
    place = f" (records: {attempt_folder(site.run, job.attempt)})"
    text = end.message[: max(0, attempts.MESSAGE_LIMIT - len(place))] + place
    lost = None
    if reached is not None:
        lost = max(0, reached.step - (reached.checkpoint or 0))
        attempts.reached(draft, reached.step)
    attempts.end_current(draft, end.cause, end.reason, text, end.node, lost_steps=lost)


def _said(job: JobView) -> TrainReached | None:
    """Return how far the attempt got in its own words."""
    for pod in job.pods:
        said = outcomes.parse(pod)
        try:
            if said is not None and said.result:
                return TrainReached.model_validate(said.result)
        except ValidationError:
            continue
    return None


def _seen(status: FineTuneJobStatus) -> TrainReached | None:
    """Return how far the attempt was when it was last looked at; None when it had made no step."""
    attempt, saved = attempts.current(status), status.checkpoints
    if attempt is None or attempt.step is None:
        return None
    return TrainReached(step=attempt.step, checkpoint=saved.latest if saved else None)


def _charge(draft: Draft[FineTuneJobStatus], spec: FineTuneJobSpec, judgement: Judgement) -> None:
    rules, kept = spec.fault_policy, faults.recent(draft.status, spec.fault_policy, draft.now)
    if judgement.counts:
        kept = [*kept, times.stamp(draft.now)] if rules.restart_window else []
        draft.update(restarts=draft.status.restarts + 1)
    draft.update(restart_times=kept)
