"""The campaign notices bugs: each is put into the operator, and some plan has to tell it from the real one."""

import pytest
from bugs import ALL, Bug
from campaign import divergence, undisturbed

pytestmark = [pytest.mark.slow, pytest.mark.full]
for_each_bug = pytest.mark.parametrize("bug", ALL, ids=lambda bug: bug.name)


def test_there_are_enough_bugs() -> None:
    assert len({bug.name for bug in ALL}) == len(ALL) >= 20


@for_each_bug
def test_a_bug_is_noticed(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {plan.scenario for plan in bug.plans}:
        undisturbed(name)  # of the real operator: what a run is held against
    bug.change(monkeypatch)
    assert any(divergence(plan) for plan in bug.plans)


@for_each_bug
def test_its_plans_accuse_nobody_else(bug: Bug) -> None:
    assert [text for plan in bug.plans if (text := divergence(plan))] == []
