"""Nodes that ended attempts are left out for a while: an hour after the first time, a day after the second.

The list is part of the status, so it outlives the operator; it is dropped rather than leave no room for the group.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from anneal_api.finetunejob import AvoidedNode, FineTuneJobStatus
from anneal_operator import nodes, times
from anneal_operator.draft import Draft
from anneal_operator.nodes import NodeView

KEPT = 16
FIRST, AGAIN = timedelta(hours=1), timedelta(days=1)
REMEMBERED = timedelta(days=1)
"""How long a node's failures count after it is taken again."""


def add(listed: Sequence[AvoidedNode], name: str, now: datetime) -> list[AvoidedNode]:
    """Return the list with a node that has just ended an attempt, last."""
    before = next((node.failures for node in listed if node.name == name), 0)
    until = times.stamp(now + (AGAIN if before else FIRST))
    others = [node for node in listed if node.name != name]
    return [*others, AvoidedNode(name=name, failures=before + 1, until=until)][-KEPT:]


def remembered(listed: Sequence[AvoidedNode], now: datetime) -> list[AvoidedNode]:
    """Return the nodes whose failures still count."""
    return [node for node in listed if times.parse(node.until) + REMEMBERED > now]


def active(listed: Sequence[AvoidedNode], moment: datetime) -> list[str]:
    """Return the names of the nodes that a group begun at that moment stays away from."""
    return sorted(node.name for node in listed if times.parse(node.until) > moment)


def blame(draft: Draft[FineTuneJobStatus], name: str) -> None:
    """Leave a node out of the next attempts; one that failed twice is named in an event."""
    listed = add(remembered(draft.status.avoided, draft.now), name, draft.now)
    draft.update(avoided=listed)
    last = listed[-1]
    if last.failures > 1:
        text = (
            f"node {name} has ended {last.failures} attempts of this job; it is left out until {last.until}"
        )
        draft.event("NodeSuspect", text, "suspect", name, str(last.failures), warning=True)


def refresh(draft: Draft[FineTuneJobStatus], pool: Sequence[NodeView] | None, wanted: int) -> None:
    """Bring the list up to date before an attempt begins; it goes when `wanted` pods find room only without it."""
    listed = remembered(draft.status.avoided, draft.now)
    draft.update(avoided=listed)
    names = active(listed, draft.now)
    left, all_ = nodes.room(pool, names), nodes.room(pool)
    if left is not None and all_ is not None and left < wanted <= all_:
        drop(draft, f"only {left} other nodes could take one of {wanted} pods")


def drop(draft: Draft[FineTuneJobStatus], why: str) -> None:
    """Take all nodes again."""
    names = ", ".join(active(draft.status.avoided, draft.now))
    number = str(draft.status.attempts[-1].number) if draft.status.attempts else ""
    draft.event("AvoidedNodesTaken", f"{names}: taken again, because {why}", "untaken", number)
    draft.update(avoided=[])
