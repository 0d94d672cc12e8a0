"""A verdict that a later look at the node changes, and those that it does not."""

from typing import Any

import pytest
from views import at, ended, node, status

from anneal_api.finetunejob import Attempt, FineTuneJobStatus
from anneal_operator.draft import Draft
from anneal_operator.finetunejob.causes import Cause
from anneal_operator.finetunejob.reconsider import SECONDS, reconsider
from anneal_operator.nodes import NodeView


def looked_at(attempt: Attempt, known: NodeView, seconds: float = 60) -> FineTuneJobStatus:
    """Return the status after a look so many seconds after the attempt's end."""
    resource: dict[str, Any] = {"metadata": {"name": "tune", "namespace": "team", "uid": "u"}}
    held = status(attempt, restarts=1, restart_times=["2026-01-01T00:01:40Z"])
    draft = Draft(resource, "FineTuneJob", held, at(100 + seconds))
    reconsider(draft, {known.name: known})
    return draft.status


LOST = node("node-1", ready=False, since=110)


def test_a_silent_peer_on_a_node_that_is_lost_costs_no_restart() -> None:
    after = looked_at(ended(1, 100, Cause.PEER_LOST, node="node-1"), LOST)
    assert (after.attempts[0].cause, after.restarts, after.restart_times) == (Cause.NODE_LOST, 0, [])


@pytest.mark.parametrize(
    ("attempt", "known", "seconds"),
    [
        (ended(1, 100, Cause.CRASH, node="node-1"), LOST, 60),
        (ended(1, 100, Cause.PEER_LOST), LOST, 60),
        (ended(1, 100, Cause.PEER_LOST, node="node-1"), node("node-1"), 60),
        (ended(1, 100, Cause.PEER_LOST, node="node-1"), LOST, 15),
        (ended(1, 100, Cause.PEER_LOST, node="node-1"), LOST, SECONDS + 1),
    ],
    ids=["it crashed", "nobody is suspected", "the node is there", "not for long", "too late"],
)
def test_everything_else_stays_as_it_was_judged(attempt: Attempt, known: NodeView, seconds: float) -> None:
    after = looked_at(attempt, known, seconds)
    assert (after.attempts[0].cause, after.restarts) == (attempt.cause, 1)
