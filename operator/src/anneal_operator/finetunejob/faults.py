"""What the end of a training group means: never again, again at a cost, or again for free; and when."""

from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile

from anneal_api.finetunejob import Attempt, FaultPolicy, FineTuneJobStatus
from anneal_operator import naming, times
from anneal_operator.finetunejob.causes import POLICIES, Cause, End, policy

JITTER = 0.2
HEALTHY_SECONDS = 600.0
"""An attempt that ran this long starts the back-off anew."""


@dataclass(frozen=True)
class Judgement:
    """What follows from an end."""

    counts: bool
    """Whether a restart is used up."""
    fatal: str = ""
    """Why there is no further attempt; empty when there is one."""


def judge(end: End, status: FineTuneJobStatus, rules: FaultPolicy, now: datetime) -> Judgement:
    """Return what follows from `end`, which the current attempt of `status` has come to."""
    held = POLICIES[end.cause]
    if end.cause is Cause.USER_ERROR:
        return Judgement(False, "an error of the configuration is not tried again")
    row = 1 + sum(1 for _ in takewhile(lambda attempt: attempt.cause == end.cause, reversed(_ended(status))))
    if held.in_a_row is not None and row >= held.in_a_row:
        return Judgement(False, f"{row} attempts in a row ended so")
    if held.counts and used(status, rules, now) >= rules.max_restarts:
        within = f" within {rules.restart_window} s" if rules.restart_window else ""
        return Judgement(False, f"spec.faultPolicy.maxRestarts: {rules.max_restarts} are used up{within}")
    return Judgement(held.counts)


def used(status: FineTuneJobStatus, rules: FaultPolicy, now: datetime) -> int:
    """Return the restarts that count today."""
    return status.restarts if rules.restart_window is None else len(recent(status, rules, now))


def recent(status: FineTuneJobStatus, rules: FaultPolicy, now: datetime) -> list[str]:
    """Return the times of the restarts within the window; without a window none are kept."""
    window = rules.restart_window
    return [t for t in status.restart_times if window and times.seconds_since(t, now) < window]


def delay(status: FineTuneJobStatus, uid: str) -> float:
    """Return the seconds between the last attempt's end and the next: exponential, with a jitter of its own."""
    ended = _ended(status)
    if not ended:
        return 0.0
    last, row = ended[-1], 0
    for attempt in reversed(ended):
        if policy(attempt.cause).delay == 0:
            break
        row += 1
        if _healthy(attempt):
            break
    held = policy(last.cause)
    base = min(held.longest, held.delay * 2.0 ** (min(row, 10) - 1)) if row else 0.0
    return base * (1 + JITTER * int(naming.short_hash(uid, last.number), 16) / 16**10)


def _ended(status: FineTuneJobStatus) -> list[Attempt]:
    """Return the attempts that ended since the job was last told to try again."""
    since = status.retry.attempt if status.retry else 0
    return [attempt for attempt in status.attempts if attempt.ended and attempt.number > since]


def _healthy(attempt: Attempt) -> bool:
    lasted = times.seconds_since(attempt.started, times.parse(attempt.ended))
    return lasted > HEALTHY_SECONDS and attempt.cause != Cause.START_TIMEOUT
