"""Nodes that are left out: for how long, how many, and never so many that nothing is left."""

from typing import Any

from views import NOW, at, node, stamp, status

from anneal_api.finetunejob import AvoidedNode, FineTuneJobStatus
from anneal_operator.draft import Draft
from anneal_operator.finetunejob import avoid

HOUR = 3600


def draft(*listed: AvoidedNode, now: float = 0) -> Draft[FineTuneJobStatus]:
    resource: dict[str, Any] = {"metadata": {"name": "tune", "namespace": "team", "uid": "u"}}
    return Draft(resource, "FineTuneJob", status(avoided=listed), at(now))


def reasons(made: Draft[FineTuneJobStatus]) -> list[str]:
    return [event.reason for event in made.events]


def test_a_node_is_left_out_for_an_hour_and_then_taken_again() -> None:
    made = draft()
    avoid.blame(made, "node-1")
    assert avoid.active(made.status.avoided, at(HOUR - 1)) == ["node-1"]
    assert avoid.active(made.status.avoided, at(HOUR)) == []
    assert reasons(made) == []


def test_a_second_failure_within_a_day_is_named_and_lasts() -> None:
    first = draft()
    avoid.blame(first, "node-1")
    second = draft(*first.status.avoided, now=20 * HOUR)
    avoid.blame(second, "node-1")
    assert avoid.active(second.status.avoided, at(43 * HOUR)) == ["node-1"]
    assert reasons(second) == ["NodeSuspect"]
    assert second.events[0].warning
    forgotten = draft(*first.status.avoided, now=26 * HOUR)
    avoid.blame(forgotten, "node-1")
    assert forgotten.status.avoided[0].failures == 1


def test_the_list_is_bounded_and_keeps_the_newest() -> None:
    listed: list[AvoidedNode] = []
    for number in range(40):
        listed = avoid.add(listed, f"n{number}", NOW)
    assert [n.name for n in listed] == [f"n{number}" for number in range(24, 40)]


def test_its_nodes_are_taken_again_when_it_leaves_no_room_for_the_group() -> None:
    listed = [AvoidedNode(name="node-1", until=stamp(HOUR))]
    pool = [node("node-0"), node("node-1"), node("node-2")]
    kept, dropped, useless, unknown = draft(*listed), draft(*listed), draft(*listed), draft(*listed)
    avoid.refresh(kept, pool, 2)
    assert kept.status.avoided == listed
    avoid.refresh(dropped, [*pool[:2], node("node-2", cordoned=True)], 2)
    assert avoid.active(dropped.status.avoided, NOW) == []
    assert "node-1: taken again" in dropped.events[0].message
    avoid.refresh(useless, [pool[0], node("node-1", ready=False)], 2)
    assert useless.status.avoided == listed
    avoid.refresh(unknown, None, 2)
    assert unknown.status.avoided == listed


def test_a_node_that_was_taken_again_and_fails_again_is_named() -> None:
    made = draft(AvoidedNode(name="node-1", until=stamp(HOUR)))
    avoid.drop(made, "there is no other")
    avoid.blame(made, "node-1")
    assert reasons(made) == ["AvoidedNodesTaken", "NodeSuspect"]
    assert avoid.active(made.status.avoided, at(23 * HOUR)) == ["node-1"]


def test_a_node_that_is_still_gone_has_failed_once() -> None:
    made = draft()
    avoid.blame(made, "node-1", same=True)
    avoid.blame(made, "node-1", same=True)
    assert [(n.name, n.failures) for n in made.status.avoided] == [("node-1", 1)]
    assert reasons(made) == []


def test_nodes_that_failed_once_are_taken_again_before_those_that_failed_twice() -> None:
    listed = [
        AvoidedNode(name="node-1", until=stamp(HOUR)),
        AvoidedNode(name="node-2", failures=2, until=stamp(HOUR)),
    ]
    pool = [node("node-0"), node("node-1"), node("node-2")]
    some, all_ = draft(*listed), draft(*listed)
    avoid.refresh(some, pool, 2)
    assert avoid.active(some.status.avoided, NOW) == ["node-2"]
    avoid.refresh(all_, pool, 3)
    assert avoid.active(all_.status.avoided, NOW) == []
