"""What a replay compares, what it asks the ledger, and where it stands before the step. Processes: test_crash.py."""

import math
from dataclasses import replace

import pytest

from anneal_runtime.errors import Refused
from anneal_trainers.records.ledger import Entry
from anneal_trainers.replay import Different, check_worlds, compare, recorded

ENTRY = Entry(
    step=4,
    stage=0,
    learning_rate=0.1,
    loss=1 / 3,
    gradient_norm=math.nan,
    finite=False,
    task_losses={"a": 0.1 + 0.2},
    rows=["00ff"],
    attempt=1,
    world=2,
)


def test_equal_figures_are_equal_whatever_attempt_they_are_of() -> None:
    compare(ENTRY, replace(ENTRY, attempt=3, gradient_norm=float("nan")))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"loss": math.nextafter(1 / 3, 1)}, "loss: 0.3333333333333333 then, 0.33333333333333337 now"),
        ({"gradient_norm": 1.0}, "gradient_norm: nan then, 1.0 now"),
        ({"task_losses": {"a": 0.3}}, "task_losses: {'a': 0.30000000000000004} then, {'a': 0.3} now"),
        ({"rows": ["00fe"]}, "rows: ['00ff'] then, ['00fe'] now"),
    ],
)
def test_one_bit_of_difference_is_told(change: dict[str, object], told: str) -> None:
    with pytest.raises(Different) as caught:
        compare(ENTRY, replace(ENTRY, **change))  # type: ignore[arg-type]
    assert str(caught.value) == f"step 4 is different: {told}"


def test_a_step_the_ledger_does_not_hold_is_refused_with_those_it_does() -> None:
    entries = [replace(ENTRY, step=step) for step in (3, 4)]
    assert recorded(entries, 4) == ENTRY
    with pytest.raises(Refused, match="--step: 5: the ledger holds steps 3 to 4; name one of these"):
        recorded(entries, 5)
    with pytest.raises(Refused, match="holds no step"):
        recorded([], 1)


def test_steps_that_other_numbers_of_ranks_took_are_refused() -> None:
    entries = [replace(ENTRY, step=step, world=world) for step, world in ((3, 4), (4, 4), (5, 2), (6, 2))]
    check_worlds(entries, 5, 6)
    check_worlds(entries, 3, 4)
    with pytest.raises(Refused, match="--step: 6 was taken by 2 ranks, and step 4, .* by 4; name") as caught:
        check_worlds(entries, 4, 6)
    assert caught.value.reason == "OtherWorldSize"
