"""Sampling shares that follow the losses."""

import math

import numpy as np
import pytest

from anneal_trainers.training import loss_drop

FALLING = [4.0, 3.0, 2.0, 1.5]
STUCK = [1.0, 0.96, 0.93, 0.9]


def after(shares: list[float], *columns: list[float], raised_at: list[int] | None = None) -> list[float]:
    """Return the shares after validations of tasks with the losses given, as Python numbers."""
    given = np.asarray(shares)
    losses = np.asarray(columns).T
    return loss_drop.next_shares(given, given, losses, raised_at or [0] * len(shares))[0].tolist()


def test_the_example_of_the_source() -> None:
    """A task of 15% is raised to 25%; the others give in proportion."""
    shares = after([0.15, 0.45, 0.4], STUCK, FALLING, FALLING)
    assert shares == pytest.approx([0.25, 0.45 * 75 / 85, 0.4 * 75 / 85])


@pytest.mark.parametrize(
    ("losses", "stalls"),
    [
        ([1.0, 0.96, 0.93, 0.9], True),
        ([1.0, 1.1, 1.2, 1.3], True),
        ([1.0, 1.0, 1.0, 1.0], True),
        ([1.0, 0.95, 0.94, 0.93], False),
        ([1.0, 0.96, 0.9, 0.89], False),
        ([1.0, 0.99, 0.98, 0.9], False),
        ([9.0, 1.0, 0.96, 0.93, 0.9], True),
        ([1.0, 1.0, 1.0], False),
        ([math.nan] * 4, False),
    ],
)
def test_a_task_stalls_where_each_of_three_windows_fell_by_less_than_a_twentieth(
    losses: list[float], stalls: bool
) -> None:
    assert loss_drop.stalled(np.asarray([losses]).T).tolist() == [stalls]
    others = (FALLING * 2)[: len(losses)]
    moved = after([0.2, 0.4, 0.4], losses, others, others)[0] > 0.2
    assert moved is stalls


def test_three_new_windows_pass_before_a_task_is_raised_again() -> None:
    first = shares = np.asarray([0.1, 0.45, 0.45])
    raised_at, seen = [0, 0, 0], []
    for validations in range(1, 11):
        losses = np.stack([np.ones(validations), *[0.5 ** np.arange(validations)] * 2], axis=1)
        shares, raised_at = loss_drop.next_shares(first, shares, losses, raised_at)
        seen.append(round(float(shares[0]), 4))
    assert seen == [0.1] * 3 + [0.1667] * 3 + [0.2778] * 3 + [0.463]
    assert raised_at == [10, 0, 0]


def test_no_task_is_raised_above_half_of_the_samples() -> None:
    assert after([0.4, 0.3, 0.3], STUCK, FALLING, FALLING) == pytest.approx([0.5, 0.25, 0.25])
    assert after([0.8, 0.1, 0.1], STUCK, FALLING, FALLING) == [0.8, 0.1, 0.1]


def test_of_two_tasks_one_may_take_all_but_half_of_the_other() -> None:
    assert after([0.5, 0.5], STUCK, FALLING) == pytest.approx([0.75, 0.25])
    assert after([0.3, 0.7], STUCK, FALLING) == pytest.approx([0.5, 0.5])


def test_no_task_is_pushed_below_half_of_its_first_share() -> None:
    first = np.asarray([0.3, 0.3, 0.2, 0.2])
    shares = np.asarray([0.3, 0.45, 0.1, 0.15])
    losses = np.asarray([STUCK, FALLING, FALLING, FALLING]).T
    result, _ = loss_drop.next_shares(first, shares, losses, [0] * 4)
    assert result == pytest.approx([0.5, 0.3, 0.1, 0.1])


def test_raised_tasks_divide_what_the_rest_can_give() -> None:
    """Two want 0.2 more each; the third can give 0.2."""
    assert after([0.3, 0.3, 0.4], STUCK, STUCK, FALLING) == pytest.approx([0.4, 0.4, 0.2])


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_where_every_task_stalls_nothing_changes(tasks: int) -> None:
    given = np.full(tasks, 1 / tasks)
    losses = np.asarray([STUCK] * tasks).T
    shares, raised_at = loss_drop.next_shares(given, given, losses, [0] * tasks)
    assert shares.tolist() == given.tolist()
    assert raised_at == [0] * tasks


def test_a_task_that_takes_no_part_stays_out_and_does_not_count() -> None:
    """As in a stage of some tasks: two are left, so the cap of three or more does not hold."""
    assert after([0.6, 0.4, 0.0], STUCK, FALLING, STUCK) == pytest.approx([0.8, 0.2, 0.0])
    assert after([0.3, 0.3, 0.4, 0.0], STUCK, STUCK, FALLING, FALLING) == pytest.approx([0.4, 0.4, 0.2, 0])
    assert after([0.7, 0.3, 0.0], STUCK, STUCK, FALLING) == [0.7, 0.3, 0.0]


@pytest.mark.parametrize("seed", range(20))
def test_shares_keep_their_bounds_whatever_the_losses(seed: int) -> None:
    random = np.random.default_rng(seed)
    tasks = int(random.integers(2, 8))
    first = shares = random.dirichlet(np.ones(tasks))
    losses, raised_at = np.exp(random.normal(0, 0.05, (40, tasks))), [0] * tasks
    for validations in range(1, 41):
        before = shares
        shares, raised_at = loss_drop.next_shares(first, shares, losses[:validations], raised_at)
        assert shares.sum() == pytest.approx(1, abs=1e-12)
        assert (shares >= 0.5 * first - 1e-12).all()
        assert (shares <= before * 5 / 3 + 1e-12).all()
        if tasks > 2:
            assert (shares <= np.maximum(before, 0.5) + 1e-12).all()
