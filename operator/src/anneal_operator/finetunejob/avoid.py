"""Nodes that ended attempts are left out for a while: an hour after the first time, a day after the second.

The list is part of the status, so it outlives the operator. Its nodes are taken again rather than leave no room for
the group; that they have failed is remembered.
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


def add(listed: Sequence[AvoidedNode], name: str, now: datetime, *, same: bool = False) -> list[AvoidedNode]:
    """Return the list with a node that has just ended an attempt, last; `same` failure as before counts once."""
    before = next((node.failures for node in listed if node.name == name), 0)
    failures = max(1, before + (not same))
    until = times.stamp(now + (AGAIN if failures > 1 else FIRST))
    others = [node for node in listed if node.name != name]
    return [*others, AvoidedNode(name=name, failures=failures, until=until)][-KEPT:]


def remembered(listed: Sequence[AvoidedNode], now: datetime) -> list[AvoidedNode]:
    """Return the nodes whose failures still count."""
    return [node for node in listed if times.parse(node.until) + REMEMBERED > now]


def active(listed: Sequence[AvoidedNode], moment: datetime) -> list[str]:
    """Return the names of the nodes that a group begun at that moment stays away from."""
    return sorted(node.name for node in listed if times.parse(node.until) > moment)


def blame(draft: Draft[FineTuneJobStatus], name: str, *, same: bool = False) -> None:
    """Leave a node out of the next attempts; one that failed twice is named in an event.

    `same`: it is still gone, and has only been tried because the cluster had not noticed yet.
    """
    listed = add(remembered(draft.status.avoided, draft.now), name, draft.now, same=same)
    draft.update(avoided=listed)
    last = listed[-1]
    if last.failures > 1 and not same:
        text = (
            f"node {name} has ended {last.failures} attempts of this job; it is left out until {last.until}"
        )
        draft.event("NodeSuspect", text, "suspect", name, str(last.failures), warning=True)


def suspects(listed: Sequence[AvoidedNode], moment: datetime) -> list[str]:
    """Return the names of those that are left out because they failed more than once."""
    return active([node for node in listed if node.failures > 1], moment)


def refresh(draft: Draft[FineTuneJobStatus], pool: Sequence[NodeView] | None, wanted: int) -> None:
    """Bring the list up to date before an attempt begins; nodes are taken again when `wanted` pods need them.

    Those that failed once come first.
    """
    listed = remembered(draft.status.avoided, draft.now)
    draft.update(avoided=listed)
    left = nodes.room(pool, active(listed, draft.now))
    if left is None or left >= wanted:
        return
    for kept in (suspects(listed, draft.now), []):
        if (nodes.room(pool, kept) or 0) >= wanted:
            drop(draft, f"only {left} other nodes could take one of {wanted} pods", kept)
            return


def drop(draft: Draft[FineTuneJobStatus], why: str, kept: Sequence[str] = ()) -> None:
    """Take all nodes but the `kept` ones again; failures still count, and the next one of a node is named."""
    names = [name for name in active(draft.status.avoided, draft.now) if name not in kept]
    number = str(draft.status.attempts[-1].number) if draft.status.attempts else ""
    text = f"{', '.join(names)}: taken again, because {why}"
    draft.event("AvoidedNodesTaken", text, "untaken", number)
    now = times.stamp(draft.now)
    listed = [n.model_copy(update={"until": now}) if n.name in names else n for n in draft.status.avoided]
    draft.update(avoided=listed)
