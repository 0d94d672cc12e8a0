"""The learning rate by step, and when to stop early."""

import pytest

from anneal_trainers.early_stop import should_stop
from anneal_trainers.schedule import Cosine


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    rate = Cosine(1.0, 0.0, 4, 100)
    assert [rate(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_cosine_halves_in_the_middle_and_stops_at_the_floor() -> None:
    rate = Cosine(5e-5, 1e-6, 0, 100)
    assert rate(50) == pytest.approx(2.5e-5)
    assert rate(99) == rate(100) == rate(1000) == 1e-6
    assert all(rate(step) >= rate(step + 1) for step in range(100))


@pytest.mark.parametrize(
    ("losses", "patience", "stops"),
    [
        ([1.0, 2.0, 3.0, 4.0], 0, False),
        ([1.0, 2.0, 2.0, 2.0], 3, True),
        ([1.0, 2.0, 2.0], 3, False),
        ([1.0, 2.0, 0.5, 2.0], 3, False),
        ([3.0, 1.0, 1.1, 1.2, 1.3], 3, True),
        ([1.0, 1.0, 1.0, 1.0], 3, False),
        ([2.0, 1.0, 1.5], 1, True),
    ],
)
def test_training_stops_after_patience_losses_above_the_one_before(
    losses: list[float], patience: int, stops: bool
) -> None:
    assert should_stop(losses, patience) is stops
