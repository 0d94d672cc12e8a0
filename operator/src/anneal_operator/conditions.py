"""Conditions: positive polarity, and a transition time that moves only when the status does."""

from collections.abc import Sequence
from datetime import datetime

from anneal_api.base import Condition
from anneal_operator import times

MESSAGE_LIMIT = 4096


def find(conditions: Sequence[Condition], type_: str) -> Condition | None:
    """Return the condition of that type, or None."""
    return next((c for c in conditions if c.type == type_), None)


def is_true(conditions: Sequence[Condition], type_: str) -> bool:
    """Return whether the condition is there and True."""
    found = find(conditions, type_)
    return found is not None and found.status == "True"


def put(
    conditions: Sequence[Condition],
    type_: str,
    status: bool,
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> list[Condition]:
    """Return the conditions with this one set; it keeps its place and, if its status holds, its time."""
    old = find(conditions, type_)
    text = "True" if status else "False"
    new = Condition(
        type=type_,
        status="True" if status else "False",
        reason=reason,
        message=message[:MESSAGE_LIMIT],
        last_transition_time=old.last_transition_time if old and old.status == text else times.stamp(now),
        observed_generation=generation,
    )
    if old is None:
        return [*conditions, new]
    return [new if c.type == type_ else c for c in conditions]
