"""How many nodes the group has: fewer, down to workers.minNodes, when no replacement comes; all again later.

The order of rows knows no number of workers, so a smaller group goes on from the same checkpoint with the same
batches. With a Kueue queue the size stays: admission is all or nothing.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

from anneal_api.finetunejob import Attempt, FineTuneJobSpec, FineTuneJobStatus, Workers
from anneal_operator import times
from anneal_operator.finetunejob.causes import Cause

TRIES = 2
"""Groups that may fail to start before a smaller one is tried; one is enough where the nodes can be counted."""
STAY_SECONDS = 1800.0
"""How long a smaller group trains before the full one is tried; twice as long after each that did not start."""
LONGEST_STAY = 4 * 3600.0
GROW_TIMEOUT = 180
"""Seconds a group that grew may take to be whole, at most: meanwhile nothing trains."""


def wanted(status: FineTuneJobStatus, workers: Workers, room: int | None) -> int:
    """Return the size of the next group.

    One that follows a smaller group that trained is a full one, if there is room: the restart is due anyway.
    """
    last = status.attempts[-1] if status.attempts else None
    if last and last.training and room is not None and room >= workers.nodes and not _vain(status.attempts):
        return workers.nodes
    return min(status.nodes or workers.nodes, workers.nodes)


def after_timeout(
    attempts: Sequence[Attempt], workers: Workers, placed: int, room: int | None, now_avoiding: bool
) -> int:
    """Return the next size after the last of `attempts` did not start; `placed` of its pods ran.

    Nodes that are left out are taken again first, so `now_avoiding` keeps the size.
    """
    last = attempts[-1]
    smallest = workers.min_nodes or workers.nodes
    if grew(attempts):
        return attempts[-2].nodes
    if last.nodes <= smallest or now_avoiding:
        return last.nodes
    tries = 1 if room is not None and room < last.nodes else TRIES
    if _timeouts(attempts) < tries:
        return last.nodes
    return max(smallest, min(last.nodes - 1, max(placed, room or 0)))


def start_timeout(attempts: Sequence[Attempt], workers: Workers) -> int:
    """Return the seconds the current group has to be whole."""
    limit = workers.start_timeout_seconds
    return min(limit, GROW_TIMEOUT) if grew(attempts) else limit


def may_grow(status: FineTuneJobStatus, spec: FineTuneJobSpec, room: int | None, now: datetime) -> bool:
    """Whether the smaller group that trains should make way for the full one."""
    current = status.attempts[-1]
    if spec.queue_name or not current.training or current.nodes >= spec.workers.nodes:
        return False
    stayed = times.seconds_since(current.training, now)
    saved = status.checkpoints.latest if status.checkpoints else None
    fresh = saved is not None and saved >= (current.first_step or 0)
    return fresh and stayed >= _stay(status.attempts) and (room is None or room >= spec.workers.nodes)


def grew(attempts: Sequence[Attempt]) -> bool:
    """Whether the last attempt is a try to grow."""
    return len(attempts) > 1 and attempts[-2].nodes < attempts[-1].nodes


def _stay(attempts: Sequence[Attempt]) -> float:
    return float(min(LONGEST_STAY, STAY_SECONDS * 2 ** _vain(attempts)))


def _vain(attempts: Sequence[Attempt]) -> int:
    """Return how many times a group that grew was not whole."""
    return sum(a.nodes < b.nodes and b.cause == Cause.START_TIMEOUT for a, b in pairwise(attempts))


def _timeouts(attempts: Sequence[Attempt]) -> int:
    """Return how many attempts of this size in a row did not start."""
    row = 0
    for attempt in reversed(attempts):
        if attempt.cause != Cause.START_TIMEOUT or attempt.nodes != attempts[-1].nodes:
            break
        row += 1
    return row
