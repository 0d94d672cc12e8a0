"""The operator under more than a thousand plans of faults: it ends where it would have ended, and writes no more.

Held against the undisturbed run of the same scenario: every object there is in the end (times, UIDs and the hashes
that follow from UIDs aside), and the number of writes that changed a resourceVersion, Events aside. Both are equal
under every plan, with the exceptions below. And under every plan a look writes the status once at most and never
without a change, an operator that looks again at the end writes nothing, and no Event is told twice.

- Lost and late events (`dropped`, `coalesced`): a state that passed unseen is not told of, so there may be fewer
  writes, never more.
- Lists that are older than the resource itself (`lagging`, unlike `stale`, where a look sees one moment of the past)
  may have a state told twice, or skipped: up to three writes of status more or less, and no other write; its Event twice.
- What others change in the operator's objects costs the one write that puts it right: labels or the owner reference
  of an object in use taken away, a Service changed.
- Where a deployment follows a job, or one version another, a delay may show one state more or less of what moves on
  meanwhile: one write.
- A resource that is deleted and made again under its name costs as many writes as if it had been alone; the writes
  for its predecessor are not counted.

An object nobody needs any more (a finished stage's Job) is not put right: its labels and owner are history.
"""

import functools

import pytest
from campaign import divergence, plans, undisturbed
from faulty import EVENT_FAULTS, READ_FAULTS, REFUSALS, Plan
from scenarios import ALL, Scenario

FAULTS = ("before", "after", "timeout", *REFUSALS, *READ_FAULTS, *EVENT_FAULTS, "shuffled")
QUICK = [Plan(s.name, FAULTS[n % len(FAULTS)], 1 + n % 3) for n, s in enumerate(ALL)]
"""What `make check` runs, one fault a scenario; `make test` runs a sample of all plans, `make test-full` all."""


@functools.cache
def every() -> list[Plan]:
    """Return all plans; how many there are follows from the undisturbed runs, which take a while."""
    return [*plans()]


def sample() -> list[Plan]:
    """Return a spread of all plans, always the same."""
    return every()[:: len(every()) // 630]


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_a_scenario_ends_as_it_should(scenario: Scenario) -> None:
    run = undisturbed(scenario.name)
    assert run.crashes == []
    assert run.reached


@pytest.mark.parametrize("plan", QUICK, ids=str)
def test_a_fault_changes_nothing(plan: Plan) -> None:
    assert divergence(plan) == ""


@pytest.mark.slow
def test_there_are_enough_plans() -> None:
    assert len(set(every())) == len(every()) >= 4000
    assert len(sample()) >= 600


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_a_fixed_sample_changes_nothing(part: int) -> None:
    found = {str(plan): text for plan in sample()[part::4] if (text := divergence(plan))}
    assert found == {}


@pytest.mark.slow
@pytest.mark.full
def test_no_fault_changes_anything() -> None:
    found = {str(plan): text for plan in every() if (text := divergence(plan))}
    assert found == {}
