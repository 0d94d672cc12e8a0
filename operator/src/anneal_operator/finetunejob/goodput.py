"""Goodput: the share of a run's time in which steps were made that counted."""

from datetime import datetime

from anneal_api.finetunejob import Attempt, FineTuneJobStatus
from anneal_operator import times


def goodput(status: FineTuneJobStatus, now: datetime) -> float | None:
    """Return useful step time over the time since the first attempt began; None before any step was seen.

    Only the attempts that the status keeps are looked at.
    """
    if not any(attempt.training for attempt in status.attempts):
        return None
    end = times.parse(status.attempts[-1].ended) if status.attempts[-1].ended else now
    total = times.seconds_since(status.attempts[0].started, end)
    useful = sum(_useful(attempt, now) for attempt in status.attempts)
    return min(1.0, useful / total) if total > 0 else None


def _useful(attempt: Attempt, now: datetime) -> float:
    """Return the seconds of an attempt whose steps were not lost with it."""
    if not attempt.training or attempt.first_step is None or attempt.step is None:
        return 0.0
    seconds = times.seconds_since(attempt.training, times.parse(attempt.ended) if attempt.ended else now)
    steps = attempt.step - attempt.first_step
    kept = max(0, steps - (attempt.lost_steps or 0))
    return seconds * kept / steps if steps > 0 else 0.0
