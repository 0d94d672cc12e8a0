"""What the end of a training group means: never again, again at a cost, or again for free; and when."""

from dataclasses import dataclass

from anneal_api.finetunejob import Attempt, FineTuneJobStatus
from anneal_api.outcome import Outcome
from anneal_operator import naming, times

FREE = frozenset({"PreemptionByScheduler", "EvictionByEvictionAPI", "StartTimeout", "Suspended"})
"""Ends that are nobody's fault: the scheduler's choice, a drained node, no room. They cost no restart."""
FIRST_DELAY = 5.0
LONGEST_DELAY = 300.0
JITTER = 0.2
HEALTHY_SECONDS = 600.0
"""An attempt that ran this long starts the backoff anew."""


@dataclass(frozen=True)
class Judgement:
    """What follows from an end."""

    fatal: bool
    restarts: int
    """Restarts used, this one included."""
    reason: str
    message: str


def judge(outcome: Outcome, restarts: int, limit: int) -> Judgement:
    """Return what follows from `outcome` when `restarts` of `limit` are used."""
    if outcome.verdict == "Refused":
        return Judgement(True, restarts, outcome.reason, outcome.message)
    if outcome.reason in FREE:
        return Judgement(False, restarts, outcome.reason, outcome.message)
    if restarts >= limit:
        text = f"{outcome.message}; spec.faultPolicy.maxRestarts: {limit} are used up"
        return Judgement(True, restarts, outcome.reason, text)
    return Judgement(False, restarts + 1, outcome.reason, outcome.message)


def delay(status: FineTuneJobStatus, uid: str) -> float:
    """Return the seconds between the last attempt's end and the next: exponential, with a jitter of its own."""
    last = status.attempts[-1]
    if last.reason == "Suspended":
        return 0.0
    row = 0
    for attempt in reversed(status.attempts):
        if attempt.reason == "Suspended" or not attempt.ended:
            break
        row += 1
        if _lasted(attempt) > HEALTHY_SECONDS and attempt.reason != "StartTimeout":
            break
    base = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (min(row, 10) - 1))
    return base * (1 + JITTER * int(naming.short_hash(uid, last.number), 16) / 16**10)


def _lasted(attempt: Attempt) -> float:
    return times.seconds_since(attempt.started, times.parse(attempt.ended))
