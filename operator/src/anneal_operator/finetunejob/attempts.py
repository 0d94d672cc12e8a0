"""The list of attempts in the status: which is current, when it began, how far it got, why it ended."""

from anneal_api.finetunejob import Attempt, FineTuneJobStatus
from anneal_api.runs import Progress
from anneal_operator import times
from anneal_operator.draft import Draft

KEPT = 20
MESSAGE_LIMIT = 1024


def current(status: FineTuneJobStatus) -> Attempt | None:
    """Return the attempt that runs, or None between attempts."""
    last = status.attempts[-1] if status.attempts else None
    return last if last and not last.ended else None


def begin(draft: Draft[FineTuneJobStatus], number: int, nodes: int, records: str) -> Attempt:
    """Claim an attempt in the status, which is written before anything of it is made; `records` is its folder."""
    attempt = Attempt(number=number, nodes=nodes, records=records, started=times.stamp(draft.now))
    draft.update(attempts=[*draft.status.attempts, attempt][-KEPT:], nodes=nodes)
    return attempt


def revise(draft: Draft[FineTuneJobStatus], number: int, **fields: object) -> None:
    """Replace fields of one attempt."""
    draft.update(
        attempts=[a.model_copy(update=fields) if a.number == number else a for a in draft.status.attempts]
    )


def admitted(draft: Draft[FineTuneJobStatus], attempt: Attempt) -> None:
    """Note that Kueue has let the current attempt go on."""
    if not attempt.admitted:
        revise(draft, attempt.number, admitted=True)


def follow(draft: Draft[FineTuneJobStatus], shown: Progress) -> None:
    """Note how far the current attempt is; its first step ends the time its predecessor needed to recover."""
    attempt = current(draft.status)
    if attempt is None or shown.attempt != attempt.number or not shown.step:
        return
    if attempt.first_step is None:
        revise(draft, attempt.number, training=times.stamp(draft.now), first_step=shown.step)
        _account(draft, shown.resumed_step)
        _recovered(draft, attempt.number - 1)
    revise(draft, attempt.number, step=shown.step)


def reached(draft: Draft[FineTuneJobStatus], step: int) -> None:
    """Note the last step of the current attempt, as it says itself."""
    attempt = current(draft.status)
    if attempt is not None:
        revise(draft, attempt.number, step=step)


def _account(draft: Draft[FineTuneJobStatus], resumed: int | None) -> None:
    """Say what was lost with the last attempt that made steps, if its end did not tell: where its successor goes on.

    A group that is asked to stop saves after its end is recorded, and takes its words with it.
    """
    before = next((a for a in draft.status.attempts[-2::-1] if a.step is not None), None)
    if before is None or before.step is None or before.lost_steps is not None or resumed is None:
        return
    lost = max(0, before.step - resumed)
    revise(draft, before.number, step=max(before.step, resumed), lost_steps=lost)


def _recovered(draft: Draft[FineTuneJobStatus], number: int) -> None:
    before = next((a for a in draft.status.attempts if a.number == number), None)
    if before is not None and before.ended:
        seconds = round(times.seconds_since(before.ended, draft.now))
        revise(draft, number, recovery_seconds=seconds)
        lost = next(a.lost_steps for a in draft.status.attempts if a.number == number)
        cost = "" if lost is None else f", {lost} steps lost"
        text = f"attempt {number + 1} trains, {seconds} s after attempt {number} ended{cost}"
        draft.event("Recovered", text, "recovered", str(number + 1))


def end_current(
    draft: Draft[FineTuneJobStatus], cause: str, reason: str, message: str, node: str = "", **more: object
) -> None:
    """Record why the current attempt ended; without one, nothing."""
    attempt = current(draft.status)
    if attempt is None:
        return
    text = message[:MESSAGE_LIMIT]
    ended = times.stamp(draft.now)
    revise(draft, attempt.number, cause=cause, reason=reason, message=text, node=node, ended=ended, **more)
