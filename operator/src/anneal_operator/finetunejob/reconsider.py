"""A second look at a verdict: peers notice at once that a worker is gone, the cluster that its node is, only later."""

from collections.abc import Mapping
from datetime import datetime

from anneal_api.finetunejob import Attempt, FineTuneJobStatus
from anneal_operator import nodes, times
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import attempts
from anneal_operator.finetunejob.causes import Cause
from anneal_operator.nodes import NodeView

SECONDS = 180.0
"""How long after an end it may turn out to have been the node's; Kubernetes needs 50 s by default to notice."""


def doubtful(status: FineTuneJobStatus, now: datetime) -> Attempt | None:
    """Return the newest ended attempt if its node may still turn out to be lost."""
    last = next((attempt for attempt in reversed(status.attempts) if attempt.ended), None)
    if last is None or last.cause != Cause.PEER_LOST or not last.node:
        return None
    return last if times.seconds_since(last.ended, now) < SECONDS else None


def reconsider(draft: Draft[FineTuneJobStatus], known: Mapping[str, NodeView]) -> None:
    """Give the restart back when the silent pod's node has been lost since."""
    last = doubtful(draft.status, draft.now)
    if last is None or not nodes.lost(known.get(last.node), draft.now):
        return
    attempts.revise(draft, last.number, cause=Cause.NODE_LOST)
    draft.update(restarts=max(0, draft.status.restarts - 1), restart_times=draft.status.restart_times[:-1])
    text = f"attempt {last.number} ended because node {last.node} was lost; its restart does not count"
    draft.event("NodeLost", text, "reconsidered", str(last.number), warning=True)
