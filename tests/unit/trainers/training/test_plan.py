"""Steps: every unit exactly once a pass, whatever the world's size; shares hold; a place is all a run remembers."""

from typing import Any

import numpy as np
import pytest

from anneal_api.finetunejob import Optimization
from anneal_trainers.data.packing import shares
from anneal_trainers.training import plan

LENGTHS = np.random.default_rng(1).integers(5, 60, 101)
TASKS = np.repeat([0, 1, 2], [60, 30, 11])
UNITS = plan.Units(LENGTHS, TASKS, np.random.default_rng(2).random(101))


def natural(epochs: float | None = None, curriculum: bool = False, **fields: Any) -> plan.Natural:
    return plan.natural(UNITS, 3, Optimization(**fields), epochs=epochs, curriculum=curriculum)


def shared(steps: int = 50, curriculum: bool = False, **fields: Any) -> plan.Shared:
    return plan.shared(UNITS, 3, Optimization(**fields), steps, curriculum=curriculum)


def walk(made: plan.Plan, wanted: tuple[float, ...] = (), start: plan.Place | None = None) -> list[Any]:
    """Return the units of every step up to the last, and the place after each."""
    place, steps = start or made.start(), []
    while place.step < made.total_steps:
        units, place = made.take(place, wanted)
        steps.append((units, place))
    return steps


@pytest.mark.parametrize("batch", [{"global_batch_rows": 7}, {"global_batch_tokens": 256}, {}])
@pytest.mark.parametrize("world", [1, 2, 3, 64])
def test_every_unit_is_trained_on_exactly_once_a_pass_by_any_world(batch: dict[str, int], world: int) -> None:
    seen = []
    for units, _ in walk(natural(epochs=2, **batch)):
        seen += [unit for share in shares(LENGTHS[units].tolist(), world) for unit in units[share].tolist()]
    assert sorted(seen) == sorted([*range(101)] * 2)


def test_token_steps_stay_within_the_budget() -> None:
    for made, wanted in (
        (natural(epochs=1, global_batch_tokens=256), ()),
        (shared(global_batch_tokens=256), (0.5, 0.3, 0.2)),
    ):
        sizes = [LENGTHS[units].sum() for units, _ in walk(made, wanted)]
        assert max(sizes) <= 256
        assert np.mean(sizes) > 200


def test_a_unit_longer_than_the_budget_is_a_step_of_its_own() -> None:
    long = plan.Units(np.asarray([50, 50]), np.asarray([0, 1]), np.zeros(2))
    asked = Optimization(global_batch_tokens=16)
    assert [len(units) for units, _ in walk(plan.natural(long, 2, asked))] == [1, 1]
    assert [len(units) for units, _ in walk(plan.shared(long, 2, asked, 4), (0.5, 0.5))] == [1, 1, 1, 1]


def test_a_fresh_plan_answers_any_step_like_one_that_came_by_it() -> None:
    walked = natural(max_steps=40, global_batch_rows=9)
    expected = [walked.units(step).tolist() for step in range(40)]
    for step in (39, 3, 17):
        assert natural(max_steps=40, global_batch_rows=9).units(step).tolist() == expected[step]


def test_passes_differ_and_seeds_differ_and_stages_differ() -> None:
    made = natural(epochs=2, global_batch_rows=101)
    assert made.units(0).tolist() != made.units(1).tolist()
    assert made.units(0).tolist() != natural(seed=1, global_batch_rows=101).units(0).tolist()
    later = plan.natural(UNITS, 3, Optimization(global_batch_rows=101), stage=1)
    assert made.units(0).tolist() != later.units(0).tolist()


def test_half_a_pass_is_half_its_steps() -> None:
    assert natural(epochs=1.5, global_batch_rows=10).total_steps == 11 + 6
    assert natural(epochs=0.5, global_batch_rows=10).total_steps == 6


def test_epochs_of_a_stage_win_over_nothing_and_steps_stand_alone() -> None:
    assert natural(max_steps=7).total_steps == 7
    assert natural(global_batch_rows=101).total_steps == 1


def test_a_stage_draws_only_what_it_chose() -> None:
    chosen = UNITS.of_tasks([1, 2])
    made = plan.natural(UNITS, 3, Optimization(), chosen=chosen, epochs=1)
    assert sorted(unit for units, _ in walk(made) for unit in units.tolist()) == chosen.tolist()


def test_the_place_counts_the_units_of_every_task() -> None:
    assert walk(natural(epochs=2))[-1][1].consumed == (120, 60, 22)


@pytest.mark.parametrize("made", [natural(epochs=1, curriculum=True), shared(2, curriculum=True)])
def test_a_curriculum_takes_each_task_from_easy_to_hard(made: plan.Plan) -> None:
    taken = [unit for units, _ in walk(made, (0.6, 0.3, 0.1)) for unit in units.tolist()]
    for task in range(3):
        difficulty = UNITS.difficulty[[unit for unit in taken if TASKS[unit] == task]]
        assert len(difficulty) > 1
        assert (np.diff(difficulty) >= 0).all()


def test_a_curriculum_mixes_the_tasks_evenly_and_is_over_after_the_first_pass() -> None:
    made = natural(epochs=2, curriculum=True, global_batch_rows=20)
    first = TASKS[made.units(0)]
    assert np.bincount(first).tolist() == pytest.approx([12, 6, 2], abs=1)
    second = np.concatenate([made.units(step) for step in range(6, 12)])
    assert sorted(second.tolist()) == list(range(101))
    assert (np.diff(UNITS.difficulty[second[TASKS[second] == 0]]) < 0).any()


def test_shares_hold_in_tokens_at_every_step_to_within_the_longest_unit() -> None:
    wanted = (0.2, 0.3, 0.5)
    for _, place in walk(shared(200, global_batch_tokens=300), wanted):
        total = sum(place.drawn)
        off = [abs(drawn - share * total) for drawn, share in zip(place.drawn, wanted, strict=True)]
        assert max(off) <= 2 * LENGTHS.max()


def test_each_task_has_every_unit_once_in_each_of_its_passes() -> None:
    taken = [unit for units, _ in walk(shared(60, global_batch_rows=10), (0.1, 0.1, 0.8)) for unit in units]
    for task in range(3):
        mine = [unit for unit in taken if TASKS[unit] == task]
        size = int((task == TASKS).sum())
        for begin in range(0, len(mine) - size, size):
            assert len({*mine[begin : begin + size]}) == size
    assert sum(TASKS[unit] == 2 for unit in taken) > 3 * 11


def test_a_run_by_shares_goes_on_from_its_place_alone() -> None:
    wanted, steps = (0.2, 0.3, 0.5), walk(shared(30, global_batch_rows=9), (0.2, 0.3, 0.5))
    again = walk(shared(30, global_batch_rows=9), wanted, start=steps[13][1])
    assert [units.tolist() for units, _ in again] == [units.tolist() for units, _ in steps[14:]]


def test_a_task_without_a_share_is_not_drawn() -> None:
    assert {TASKS[unit] for units, _ in walk(shared(20), (0.7, 0.0, 0.3)) for unit in units} == {0, 2}


def test_tasks_without_a_share_of_their_own_divide_the_rest_by_their_tokens() -> None:
    assert plan.first_shares([0.4, None, None], np.asarray([1.0, 30.0, 10.0])).tolist() == [0.4, 0.45, 0.15]
    assert plan.first_shares([None, None], np.asarray([3.0, 1.0])).tolist() == [0.75, 0.25]
    assert plan.first_shares([0.5, 0.25, None], np.asarray([1.0, 0.0, 5.0])).tolist() == [0.5, 0.0, 0.5]
