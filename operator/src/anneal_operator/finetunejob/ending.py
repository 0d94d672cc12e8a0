"""An attempt's end: recorded with its cause and what was lost, judged, and the node that was to blame left out."""

from pydantic import ValidationError

from anneal_api.finetunejob import Attempt, FineTuneJobSpec, FineTuneJobStatus
from anneal_api.outcome import TrainReached
from anneal_operator import outcomes, times
from anneal_operator.decision import EVENT_LIMIT
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import attempts, avoid, faults, finish
from anneal_operator.finetunejob.causes import POLICIES, Cause, End
from anneal_operator.finetunejob.faults import Judgement
from anneal_operator.observed import JobView, PodView


def conclude(draft: Draft[FineTuneJobStatus], spec: FineTuneJobSpec, job: JobView, end: End) -> None:
    """End the current attempt and say what follows; its Job goes, unless it has failed and shows why."""
    judgement = faults.judge(end, draft.status, spec.fault_policy, draft.now)
    _record(draft, job, end)
    _charge(draft, spec, judgement)
    if job.active:
        draft.remove(job)
    draft.condition("Training", False, end.reason, end.message, quiet=True)
    attempt = draft.status.attempts[-1]
    if judgement.fatal:
        finish.fail(
            draft, end.reason, _told(f"attempt {job.attempt}", f"{end.message}; {judgement.fatal}", attempt)
        )
        return
    text = _told(f"attempt {job.attempt} ({end.cause}){_where(attempt)}", end.message, attempt)
    draft.event("AttemptEnded", text, "attempt", str(job.attempt), warning=True)
    if end.node and POLICIES[end.cause].blames_node:
        unused = not draft.status.attempts[-1].training
        avoid.blame(draft, end.node, same=unused and end.cause == Cause.NODE_LOST)
    draft.wake(faults.delay(draft.status, draft.uid))


def _where(attempt: Attempt) -> str:
    node = f" on node {attempt.node}" if attempt.node else ""
    return node + (f", {attempt.lost_steps} steps lost" if attempt.lost_steps is not None else "")


def _told(who: str, message: str, attempt: Attempt) -> str:
    """Return what a person reads of an end: where its records are comes through however long the message."""
    place = f"; records: {attempt.records}" if attempt.records else ""
    return f"{who}: {message}"[: max(0, EVENT_LIMIT - len(place))] + place


def _record(draft: Draft[FineTuneJobStatus], job: JobView, end: End) -> None:
    reached = _said(draft.status, job) or (None if POLICIES[end.cause].saves else _seen(draft.status))
    lost = None
    if reached is not None:
        lost = max(0, reached.step - (reached.checkpoint or 0))
        attempts.reached(draft, reached.step)
    attempts.end_current(draft, end.cause, end.reason, end.message, end.node, lost_steps=lost)


def _said(status: FineTuneJobStatus, job: JobView) -> TrainReached | None:
    """Return how far the attempt got in the words of all its pods; only the first one hears of every checkpoint.

    Where that one is gone without a word, the newest checkpoint that was seen counts, too.
    """
    said = [found for pod in job.pods if (found := _reached(pod)) is not None]
    if not said:
        return None
    saved = [status.checkpoints.latest] if status.checkpoints else []
    known = [step for step in [*saved, *(found.checkpoint for found in said)] if step is not None]
    return TrainReached(step=max(found.step for found in said), checkpoint=max(known, default=None))


def _reached(pod: PodView) -> TrainReached | None:
    said = outcomes.parse(pod)
    try:
        return TrainReached.model_validate(said.result) if said is not None and said.result else None
    except ValidationError:
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
