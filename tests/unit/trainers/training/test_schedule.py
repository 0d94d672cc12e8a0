"""The learning rate by step."""

import inspect

import pytest

from anneal_api.finetunejob import Optimization
from anneal_trainers.training import schedule
from anneal_trainers.training.schedule import Cosine, Wsd


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    rate = Cosine(1.0, 0.0, 4, 100)
    assert [rate(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_cosine_halves_in_the_middle_and_stops_at_the_floor() -> None:
    rate = Cosine(5e-5, 1e-6, 0, 100)
    assert rate(50) == pytest.approx(2.5e-5)
    assert rate(99) == rate(100) == rate(1000) == 1e-6
    assert all(rate(step) >= rate(step + 1) for step in range(100))


def test_wsd_rises_stays_and_falls_in_straight_lines() -> None:
    rate = Wsd(peak=1.0, floor=0.2, warmup=2, decay=4, total=10)
    expected = [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
    assert [rate(step) for step in range(10)] == pytest.approx(expected, abs=1e-15)
    assert rate(10) == rate(1000) == 0.2


def test_wsd_decays_over_a_tenth_of_the_stage_unless_told() -> None:
    rate = schedule.rate(Optimization(schedule="wsd", min_learning_rate=0.0), 1.0, 50)
    assert [rate(step) for step in (44, 45, 49)] == pytest.approx([1.0, 0.8, 0.0])
    told = schedule.rate(Optimization(schedule="wsd", min_learning_rate=0.0, decay_steps=10), 1.0, 50)
    assert [told(step) for step in (39, 40, 49)] == pytest.approx([1.0, 0.9, 0.0])


@pytest.mark.parametrize("total", [1, 3, 9])
def test_wsd_of_a_short_run_still_decays_in_its_last_step(total: int) -> None:
    rate = schedule.rate(Optimization(schedule="wsd", min_learning_rate=0.1), 1.0, total)
    assert [rate(step) for step in range(total)] == pytest.approx([1.0] * (total - 1) + [0.1])


def test_a_decay_longer_than_what_is_left_begins_at_the_peak_where_the_warm_up_ends() -> None:
    rate = Wsd(peak=1.0, floor=0.0, warmup=5, decay=100, total=10)
    assert [rate(step) for step in range(10)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 0.8, 0.6, 0.4, 0.2, 0])


@pytest.mark.parametrize("shape", ["cosine", "wsd"])
def test_a_warm_up_longer_than_the_run_keeps_its_slope(shape: str) -> None:
    optimization = Optimization(schedule=shape, warmup_steps=100, min_learning_rate=0.0)
    rate = schedule.rate(optimization, 1.0, 10)
    assert [rate(step) for step in range(9)] == pytest.approx([(step + 1) / 100 for step in range(9)])
    assert 0.0 <= rate(9) <= 0.1


@pytest.mark.parametrize("shape", ["cosine", "wsd"])
def test_the_floor_never_exceeds_the_peak_of_a_stage(shape: str) -> None:
    optimization = Optimization(schedule=shape, learning_rate=1e-3, min_learning_rate=1e-4)
    rate = schedule.rate(optimization, 1e-5, 20)
    assert {rate(step) for step in range(30)} == {1e-5}


@pytest.mark.parametrize("shape", ["cosine", "wsd"])
@pytest.mark.parametrize("warmup", [0, 1, 7, 40])
def test_a_rate_stays_between_nothing_and_the_peak_and_ends_near_the_floor(shape: str, warmup: int) -> None:
    optimization = Optimization(schedule=shape, warmup_steps=warmup, min_learning_rate=1e-4)
    rates = [schedule.rate(optimization, 1e-2, 40)(step) for step in range(45)]
    assert all(0 < value <= 1e-2 for value in rates)
    assert max(rates) == 1e-2 or shape == "wsd"
    assert rates[41:] == [pytest.approx(1e-4)] * 4


def test_the_step_is_all_that_a_rate_is_made_of() -> None:
    """Neither accumulation nor world size can stretch a schedule: nothing takes them."""
    assert list(inspect.signature(schedule.rate).parameters) == ["optimization", "peak", "total"]
    one, other = (
        schedule.rate(Optimization(global_batch_rows=rows, warmup_steps=3), 1e-3, 20) for rows in (1, 64)
    )
    assert [one(step) for step in range(20)] == [other(step) for step in range(20)]
