"""Bugs as operators have had them (Sieve, Acto, kopf's and JobSet's trackers), put into this one on purpose."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from faulty import Plan

from anneal_operator import carry_out, draft, handlers, objects, observed, stages
from anneal_operator.finetunejob import (
    attempts,
    decide,
    deletion,
    finish,
    gather,
    pipeline,
    suspend,
    training,
)
from anneal_operator.modeldeployment import retire

Change = Callable[[pytest.MonkeyPatch], None]
ROOT = "anneal_operator."


@dataclass(frozen=True)
class Bug:
    """What is broken, how, and plans of the campaign that have to notice."""

    name: str
    change: Change
    plans: tuple[Plan, ...]


def swap(module: Any, name: str, make: Callable[[Any], Any]) -> Change:
    """Return the change that replaces a function by one made of it."""
    return lambda patch: patch.setattr(module, name, make(getattr(module, name)))


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _without_status_claim(_: Any) -> Any:
    def write(view: Any, decision: Any, tell: Any) -> None:
        for obj in decision.create:
            view.cluster.create(obj)
        original(view, replace(decision, create=[]), tell)

    original = carry_out._write
    return write


def _random_name(real: Any) -> Any:
    counter = iter(range(10**6))
    return lambda site, attempt: f"{real(site, attempt)}-{next(counter)}"


def _no_owner(real: Any) -> Any:
    return lambda *a, **k: {n: v for n, v in real(*a, **k).items() if n != "ownerReferences"}


def _blind_status(real: Any) -> Any:
    """A status written without its resourceVersion."""

    def write(view: Any, decision: Any, tell: Any) -> None:
        if decision.status is not None:
            meta = view.resource["metadata"]
            live = view.cluster.server.get(view.resource["kind"], meta["namespace"], meta["name"])
            view.resource["metadata"] = {**meta, "resourceVersion": live["metadata"]["resourceVersion"]}
        real(view, decision, tell)

    return write


def _never_again(real: Any) -> Any:
    def decision(self: Any) -> Any:
        return replace(real(self), requeue_at=None)

    return decision


def _always_status(real: Any) -> Any:
    """The status is written whenever it is looked at; a counter makes each one new."""

    def decision(self: Any) -> Any:
        self.update(restarts=self.status.restarts + 1) if hasattr(self.status, "restarts") else None
        return real(self)

    return decision


def _no_uid(real: Any) -> Any:
    def write(view: Any, decision: Any, tell: Any) -> None:
        for gone in decision.delete:
            view.cluster.server.remove(gone.kind, gone.namespace, gone.name)
        real(view, decision, tell)

    return write


def _finished_late(real: Any) -> Any:
    """Children are looked at although the run has ended."""
    return lambda status: False


def _first_of_list(real: Any) -> Any:
    """The first pod of a list stands for the group."""
    return lambda job, pods: replace(real(job, pods), pods=real(job, pods).pods[:1])


def _restarts_counted_twice(real: Any) -> Any:
    def end(target: Any, *arguments: Any, **named: Any) -> Any:
        target.update(restarts=target.status.restarts + 1)
        return real(target, *arguments, **named)

    return end


def _stop_only(real: Any) -> Any:
    """Suspension says that it holds and removes nothing."""

    def clean(target: Any, seen: Any, spec: Any) -> None:
        if not spec.suspend:
            real(target, seen, spec)

    return clean


def _released_first(real: Any) -> Any:
    def release(target: Any, seen: Any, config: Any) -> None:
        target.protect(False)

    return release


def _deaf(patch: pytest.MonkeyPatch) -> None:
    async def child(self: Any, body: Any, **_: Any) -> None:
        return

    patch.setattr(handlers.Watch, "_child", child)
    patch.setattr(draft.Draft, "wake", _nothing)


def _create_anyway(real: Any) -> Any:
    return _nothing


def _raising(real: Any) -> Any:
    def look(cluster: Any, resource: Any, obj: Any) -> None:
        live = cluster.get(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])
        if live is not None:
            raise KeyError(obj["metadata"]["name"])

    return look


def _remembers(real: Any) -> Any:
    """What has been made is kept in memory alone: after a restart, or a removal, it is wrong."""
    made: set[str] = set()

    def follow(target: Any, children: Any, wanted: Any) -> Any:
        name = wanted["metadata"]["name"]
        if name in made:
            return real(target, children, wanted) if name in children.jobs else stages.Step("running")
        made.add(name)
        return real(target, children, wanted)

    return follow


def _drains_at_once(real: Any) -> Any:
    def drain(target: Any, rules: Any) -> None:
        for version in retire.versions.at(target.status, "Draining"):
            target.update(versions=[v for v in target.status.versions if v.run != version.run])

    return drain


def plan(scenario: str, fault: str = "", *numbers: int) -> tuple[Plan, ...]:
    """Return plans of one scenario and fault."""
    return tuple(Plan(scenario, fault, n) for n in numbers) if fault else (Plan(scenario),)


WRITES = range(1, 16)
ALL = [
    Bug("children are made before the claim is written", swap(carry_out, "_write", _without_status_claim), plan("plain", "conflict", *WRITES)),
    Bug("a name that differs each time", swap(training.resources, "train_name", _random_name), plan("plain")),
    Bug("children without an owner", swap(training.resources, "metadata", _no_owner), plan("plain")),
    Bug("a status without its version", swap(carry_out, "_write", _blind_status), plan("suspended", "stale", *range(4, 30, 2))),
    Bug("no due times", swap(draft.Draft, "decision", _never_again), plan("retried")),
    Bug("a status is written at every look", swap(draft.Draft, "decision", _always_status), plan("plain")),
    Bug("deletions without a UID", swap(carry_out, "_write", _no_uid), plan("suspended", "before", *range(8, 16)) + plan("suspended")),
    Bug("finished is looked at after children", swap(finish, "is_finished", _finished_late), plan("expired") + plan("refused")),
    Bug("one pod stands for the group", swap(observed, "job_view", _first_of_list), plan("preempted")),
    Bug("restarts are counted twice", swap(attempts, "end_current", _restarts_counted_twice), plan("suspended")),
    Bug("suspension removes nothing", swap(decide.finish, "clean_up", _stop_only), plan("suspended")),
    Bug("the finalizer goes before the artifacts", swap(deletion, "release", _released_first), plan("artifacts-deleted")),
    Bug("nobody listens to children, and nothing is due", _deaf, plan("plain")),
    Bug("a child is called absent without a live look", swap(carry_out, "_look_for", _create_anyway), plan("changed-in-flight", "unlabelled", 6, 7) + plan("plain", "lagging", *range(2, 26, 3))),
    Bug("a child that exists is an error nobody handles", swap(carry_out, "_look_for", _raising), plan("changed-in-flight", "unlabelled", 6, 7)),
    Bug("what was made is kept in memory", swap(pipeline.stages, "follow", _remembers), plan("plain", "before", *WRITES)),
    Bug("an ended group is left running", swap(training, "_end_others", lambda _: _nothing), plan("not-whole", "after", *range(8, 20))),
    Bug("a plan without labels is no plan", swap(gather.Gatherer, "_with_plan", lambda _: lambda self, resource, found: found), plan("changed-in-flight", "plan-unlabelled", *range(5, 9))),
    Bug("a list from before Kueue let a group go on is an eviction", swap(gather.Gatherer, "_as_held", lambda _: lambda self, resource, found: found), plan("queue-evicted", "lagging", 11) + plan("queued", "lagging", 11)),
    Bug("a drifted child is left as it is", swap(objects, "covers", lambda _: lambda live, wanted: True), plan("changed-in-flight", "drifted", 5, 6, 7)),
    Bug("an old version is dropped before it is drained", swap(retire, "drain", _drains_at_once), plan("taken-over")),
    Bug("resumption is not noticed", swap(suspend, "is_true", lambda _: lambda *a: False), plan("suspended")),
    Bug("the deadline is not looked at", swap(decide.deadline, "passed", lambda _: lambda *a: False), plan("late")),
]  # fmt: skip
