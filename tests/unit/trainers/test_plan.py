"""Steps: every row exactly once a pass, addressed by number alone, ignorant of the world's size."""

from typing import Any

import numpy as np
import pytest

from anneal_api.finetunejob import Optimization
from anneal_trainers.packing import shares
from anneal_trainers.plan import Plan

LENGTHS = np.random.default_rng(1).integers(5, 60, 101)


def plan(**fields: Any) -> Plan:
    return Plan(LENGTHS, Optimization(**fields))


@pytest.mark.parametrize("batch", [{"global_batch_rows": 7}, {"global_batch_tokens": 256}, {}])
@pytest.mark.parametrize("world", [1, 2, 3, 64])
def test_every_row_is_trained_on_exactly_once_a_pass_by_any_world(batch: dict[str, int], world: int) -> None:
    made = plan(epochs=2, **batch)
    seen = []
    for step in range(made.total_steps):
        rows = made.rows(step)
        seen += [row for share in shares(LENGTHS[rows].tolist(), world) for row in rows[share].tolist()]
    assert sorted(seen) == sorted([*range(101)] * 2)


def test_token_steps_stay_within_the_budget() -> None:
    made = plan(epochs=1, global_batch_tokens=256)
    sizes = [LENGTHS[made.rows(step)].sum() for step in range(made.total_steps)]
    assert max(sizes) <= 256
    assert np.mean(sizes) > 200


def test_a_row_longer_than_the_budget_is_a_step_of_its_own() -> None:
    made = Plan(np.asarray([50, 50]), Optimization(global_batch_tokens=16))
    assert [len(made.rows(step)) for step in range(made.total_steps)] == [1, 1]


def test_a_fresh_plan_answers_any_step_like_one_that_came_by_it() -> None:
    walked = plan(max_steps=40, global_batch_rows=9)
    expected = [walked.rows(step).tolist() for step in range(40)]
    for step in (39, 3, 17):
        assert plan(max_steps=40, global_batch_rows=9).rows(step).tolist() == expected[step]


def test_passes_differ_and_seeds_differ() -> None:
    made = plan(epochs=2, global_batch_rows=101)
    assert made.rows(0).tolist() != made.rows(1).tolist()
    assert made.rows(0).tolist() != plan(seed=1, global_batch_rows=101).rows(0).tolist()


def test_half_a_pass_is_half_its_steps() -> None:
    assert plan(epochs=1.5, global_batch_rows=10).total_steps == 11 + 6
