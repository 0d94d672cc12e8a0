"""The list of attempts in the status: which is current, when it began, why it ended."""

from anneal_api.finetunejob import Attempt, FineTuneJobStatus
from anneal_operator import times
from anneal_operator.draft import Draft

KEPT = 20


def current(status: FineTuneJobStatus) -> Attempt | None:
    """Return the attempt that runs, or None between attempts."""
    last = status.attempts[-1] if status.attempts else None
    return last if last and not last.ended else None


def begin(draft: Draft[FineTuneJobStatus], number: int) -> Attempt:
    """Claim an attempt in the status, which is written before anything of it is made."""
    attempt = Attempt(number=number, started=times.stamp(draft.now))
    draft.update(attempts=[*draft.status.attempts, attempt][-KEPT:])
    return attempt


def end_current(draft: Draft[FineTuneJobStatus], reason: str, message: str, node: str = "") -> None:
    """Record why the current attempt ended; without one, nothing."""
    attempt = current(draft.status)
    if attempt is None:
        return
    ended = attempt.model_copy(
        update={
            "reason": reason,
            "message": message[:1024],
            "node": node,
            "ended": times.stamp(draft.now),
        }
    )
    draft.update(attempts=[*draft.status.attempts[:-1], ended])
