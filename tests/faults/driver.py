"""The operator as a process in virtual time: watch events and due times lead to looks, as handlers and queue have it.

The nodes move only when the operator has come to rest, so what it writes does not depend on who was quicker.
"""

import json
import re
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any

from api_server import Object, Stopped
from faulty import SPELL, Faulty, Plan
from meddling import MEDDLERS
from world import NAMESPACE, World

from anneal_operator import handlers
from anneal_operator.carry_out import NameTakenError
from anneal_operator.cluster.errors import ApiError
from anneal_operator.cluster.kinds import KINDS
from anneal_operator.queue import FIRST_DELAY, LONGEST_DELAY
from anneal_operator.reconciler import Key, Reconciler

TICK = timedelta(seconds=5)
RESTLESS = 100
"""Looks in one tick after which the operator is taken to run in circles."""
CATCH_UP = timedelta(seconds=1)
EXPECTED = (ApiError, NameTakenError, TimeoutError)
"""Errors that end a look and are tried again; any other is a bug."""
PLURALS = {plural: kind for kind, (_, plural) in KINDS.items()}
WATCHED = [PLURALS[plural] for *_, plural in handlers.CHILDREN]
STAGE = "anneal.dev/stage"


class Heard(handlers.Watch):
    """The operator's own way from an event to a key."""

    def __init__(self, operator: Reconciler, world: World, add: Callable[[Key], None]) -> None:
        self._put = add
        super().__init__(operator, world.config)

    def _add(self, key: Key, delay: float = 0.0, patience: float = 0.0) -> None:
        self._put(key)

    def hear(self, obj: Object) -> None:
        _run(self._resource(body=obj) if obj["kind"] in handlers.RESOURCES else self._child(body=obj))


class Driver(World):
    """A world in which the operator runs by itself, under one plan of faults."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.crashes: list[str] = []
        self.cluster: Faulty | None = None
        super().__init__()
        self.cluster = Faulty(self.server, plan)
        self.events = 0
        self._ticks = 0
        self.restart()

    @property
    def hears_every(self) -> int:
        """In how many ticks events come once."""
        return 3 if self.plan.fault == "coalesced" else 1

    def restart(self) -> None:
        """Start the operator anew: it lists everything there is, and watches from there."""
        if self.cluster is None:
            return
        self.operator = Reconciler(self.cluster, self.pods, self.config, lambda: self.now)
        self._due: dict[Key, datetime] = {}
        self._failures: dict[Key, int] = {}
        self._watch = Heard(self.operator, self, self._add)
        self._seen = str(self.server.version)
        for kind in (*handlers.RESOURCES, *WATCHED):
            for obj in self.server.select(kind, None, "" if kind in handlers.RESOURCES else STAGE):
                self._watch.hear(obj)

    def tick(self) -> None:
        """Let the nodes move, then the operator until it rests; five seconds pass."""
        self._ticks += 1
        if self.plan.fault in MEDDLERS and self._ticks == self.plan.at:
            MEDDLERS[self.plan.fault].act(self)
        self.player.play()
        end = self.now + TICK
        for _ in range(RESTLESS):
            self._listen()
            due = sorted((moment, str(key), key) for key, moment in self._due.items() if moment <= end)
            if not due:
                self.now = end
                return
            self.now = max(self.now, due[0][0])
            self._look(due[0][2])
        self.crashes.append("the operator does not come to rest")

    def _listen(self) -> None:
        if self._ticks % self.hears_every:
            return
        since, self._seen = self._seen, str(self.server.version)
        for kind in (*handlers.RESOURCES, *WATCHED):
            selector = "" if kind in handlers.RESOURCES else STAGE
            for event in self.server.watch(kind, None, since, selector):
                self.events += 1
                if not self._lost(event):
                    self._watch.hear(event["object"])

    def _lost(self, event: Object) -> bool:
        """Whether the event never comes; that a resource exists is always heard of, at the latest by a list."""
        first = event["type"] == "ADDED" and event["object"]["kind"] in handlers.RESOURCES
        ill = self.plan.fault == "dropped" and self.plan.at <= self.events < self.plan.at + SPELL
        return ill and not first

    def _add(self, key: Key) -> None:
        if key not in self._failures:
            self._due[key] = min(self.now, self._due.get(key, self.now))

    def _look(self, key: Key) -> None:
        assert self.cluster is not None
        del self._due[key]
        self.cluster.look()
        try:
            again = self.operator.reconcile(key)
        except Stopped:
            self.restart()
            return
        except EXPECTED:
            self._fail(key)
            return
        except Exception as error:
            self.crashes.append(f"{key}: {error!r}")
            self._fail(key)
            return
        self._failures.pop(key, None)
        if self.cluster.behind:
            # What the reader has not heard of yet it will hear of.
            again = min(again or self.now + CATCH_UP, self.now + CATCH_UP)
        if again is not None:
            self._due[key] = min(again, self._due.get(key, again))

    def _fail(self, key: Key) -> None:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        self._due[key] = self.now + timedelta(seconds=min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** (count - 1)))

    def state(self) -> list[str]:
        """Return all that is left."""
        kept = (o for (kind, _, _), o in self.server.objects.items() if kind not in ("Event", "Pod"))
        return sorted(told(obj) for obj in kept)

    def written(self, kind: str, name: str) -> list[str]:
        """Return the writes that changed something for the resource that is there now, or for any if none is."""
        assert self.cluster is not None
        found = self.server.get(kind, NAMESPACE, name)
        uid = found["metadata"]["uid"] if found else None
        return [what for what, owner in self.cluster.changes if uid in (None, owner)]

    def told(self, kind: str, name: str) -> list[str]:
        """Return the Events about the resource that is there now; what tells of a fault itself aside."""
        found = self.server.get(kind, NAMESPACE, name)
        uid = found["metadata"]["uid"] if found else ""
        events = self.server.select("Event", NAMESPACE)
        own = (e for e in events if e["involvedObject"]["uid"] == uid and e["reason"] != "WriteFailed")
        return sorted(masked(f"{event['reason']}: {event['message']}") for event in own)

    def restless(self, kind: str, name: str) -> list[str]:
        """Return what one more look writes, by an operator that has just started and that nothing disturbs."""
        rested = Faulty(self.server, Plan(self.plan.scenario))
        try:
            Reconciler(rested, self.pods, self.config, lambda: self.now).reconcile(self.key(kind, name))
        except Exception as error:
            return [repr(error)]
        return [f"{what} once more" for what, _ in rested.changes]


PASSING = ("uid", "resourceVersion", "creationTimestamp", "generation", "deletionTimestamp")


def told(obj: Object) -> str:
    """Return an object as text, without what time and chance put into it."""
    meta = {name: value for name, value in obj["metadata"].items() if name not in PASSING}
    return masked(json.dumps({**obj, "metadata": meta}, sort_keys=True))


def masked(text: str) -> str:
    """Return a text without times, UIDs, and the hashes that follow from them."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+(\.\d+)?Z", "TIME", text)
    text = re.sub(r'"(recovery|accelerator)Seconds": \d+', r'"\1Seconds": TIME', text)
    text = re.sub(r"uid-\d+", "UID", text)
    return re.sub(r"(?<![0-9a-f])[0-9a-f]{10,64}(?![0-9a-f])", _hash, text)


def _hash(found: re.Match[str]) -> str:
    return found[0] if len(set(found[0])) == 1 else "HASH"


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("a handler waits for something")
