"""Every plan of the campaign, and what a disturbed run is held against."""

import functools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from driver import Driver
from faulty import EVENT_FAULTS, READ_FAULTS, REFUSALS, Plan
from meddling import MEDDLERS
from scenarios import BY_NAME, Scenario

TOLD_AGAIN = 3
"""Writes of status that lists which are older than the resource itself may cost, or spare."""
OTHERS_MOVE = {"followed": 1, "taken-over": 1}
"""Writes more or less where something else moves on while a fault delays: the job that is followed, a rollout's next step."""


@dataclass(frozen=True)
class Run:
    """What a run came to."""

    reached: bool
    state: list[str]
    written: list[str]
    crashes: list[str]
    looks: int
    events: int
    offences: list[str]
    told: Counter[str]


def play(plan: Plan) -> Run:
    """Run a scenario under a plan."""
    scenario: Scenario = BY_NAME[plan.scenario]
    world = Driver(plan)
    scenario.play(world)
    assert world.cluster is not None
    return Run(
        scenario.reached(world),
        world.state(),
        world.written(scenario.kind, scenario.resource),
        world.crashes,
        world.cluster.looks,
        world.events,
        world.cluster.offences + world.restless(scenario.kind, scenario.resource),
        Counter(world.told(scenario.kind, scenario.resource)),
    )


@functools.cache
def undisturbed(name: str) -> Run:
    """Return the run that nothing goes wrong in."""
    return play(Plan(name))


def plans() -> Iterator[Plan]:
    """Yield every plan: each write of each scenario stopped, refused and answered late, and a spread of the rest."""
    for name in BY_NAME:
        calm = undisturbed(name)
        for number in range(1, len(calm.written) + 1):
            yield from (Plan(name, fault, number) for fault in ("before", "after", "timeout"))
            yield Plan(name, REFUSALS[number % len(REFUSALS)], number)
        yield from (Plan(name, fault, at) for fault in READ_FAULTS for at in range(2, calm.looks + 1, 3))
        yield from (Plan(name, "dropped", at) for at in range(1, calm.events, 7))
        yield Plan(name, "coalesced")
        yield Plan(name, "shuffled", 1)
    for fault, meddler in MEDDLERS.items():
        yield from (Plan(name, fault, tick) for name, ticks in meddler.where.items() for tick in ticks)


def divergence(plan: Plan) -> str:
    """Return how a run under a plan differs from the undisturbed one; empty when it does not."""
    calm, run = undisturbed(plan.scenario), play(plan)
    if run.crashes:
        return f"errors nobody handles: {run.crashes}"
    if not run.reached:
        return "another end"
    if run.offences:
        return f"needless writes: {run.offences}"
    often = 2 if plan.fault == "lagging" else 1
    if again := {text: count for text, count in run.told.items() if count > max(often, calm.told[text])}:
        return f"events told again: {again}"
    left, wanted = _seen(plan, run.state), _seen(plan, calm.state)
    if left != wanted:
        return f"{len(left)} objects instead of {len(wanted)}; {_first(left, wanted)}"
    return _count(plan, run.written, calm.written)


def _seen(plan: Plan, state: list[str]) -> list[str]:
    """Return the objects without what a meddler changed for good."""
    stays = MEDDLERS[plan.fault].stays if plan.fault in MEDDLERS else ""
    return sorted(re.sub(rf'"{stays}": {{[^}}]*}}, ', "", text) for text in state) if stays else state


def _first(states: list[str], wanted: list[str]) -> str:
    """Return the place at which two lists of objects first differ."""
    left, right = next((pair for pair in zip(states, wanted, strict=False) if pair[0] != pair[1]), ("", ""))
    at = next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), 0)
    at = max(0, at - 60)
    return f"...{left[at : at + 160]} instead of ...{right[at : at + 160]}"


def _count(plan: Plan, written: list[str], calm: list[str]) -> str:
    more, less = _difference(written, calm), _difference(calm, written)
    fewest = -len(calm) if plan.fault in EVENT_FAULTS else 0
    most = MEDDLERS[plan.fault].costs if plan.fault in MEDDLERS else 0
    if plan.fault == "lagging" and all(what.startswith("status ") for what in more + less):
        fewest, most = -TOLD_AGAIN, TOLD_AGAIN
    slack = OTHERS_MOVE.get(plan.scenario, 0)
    if min(fewest, most) - slack <= len(more) - len(less) <= max(fewest, most) + slack:
        return ""
    return f"{len(more) - len(less):+d} writes: {more} and not {less}"


def _difference(left: list[str], right: list[str]) -> list[str]:
    rest = list(right)
    return [what for what in left if what not in rest or rest.remove(what)]  # type: ignore[func-returns-value]
