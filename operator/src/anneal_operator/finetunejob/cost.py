"""What training has cost: accelerators times seconds, whether or not their steps were kept."""

from anneal_api.finetunejob import Attempt, FineTuneJobSpec, FineTuneJobStatus
from anneal_operator import times


def charged(before: FineTuneJobStatus, after: FineTuneJobStatus, spec: FineTuneJobSpec) -> int:
    """Return the accelerator-seconds up to `after`: what `before` had, and what attempts that ended since have held.

    They are added up when an attempt ends, because a status keeps only the newest attempts.
    """
    told = {attempt.number for attempt in before.attempts if attempt.ended}
    ended = [attempt for attempt in after.attempts if attempt.ended and attempt.number not in told]
    per_node = spec.workers.accelerators_per_node
    return before.accelerator_seconds + sum(
        _held(attempt, spec) * attempt.nodes * per_node for attempt in ended
    )


def _held(attempt: Attempt, spec: FineTuneJobSpec) -> int:
    """Return for how many seconds an attempt held its nodes; what waits in a queue holds none."""
    since = attempt.training if spec.queue_name else attempt.started
    return round(times.seconds_since(since, times.parse(attempt.ended))) if since else 0
