"""When to stop early."""

import doctest
import math

import pytest

from anneal_trainers.training import early_stop
from anneal_trainers.training.early_stop import should_stop


@pytest.mark.parametrize(
    ("losses", "patience", "stops"),
    [
        ([1.0, 2.0, 3.0, 4.0], 0, False),
        ([1.0, 2.0, 2.0, 2.0], 3, True),
        ([1.0, 2.0, 2.0], 3, False),
        ([1.0, 2.0, 0.5, 2.0], 3, False),
        ([3.0, 1.0, 1.1, 1.2, 1.3], 3, True),
        ([1.0, 1.3, 1.2, 1.1], 3, True),
        ([1.0, 1.0, 1.0, 1.0], 3, False),
        ([1.0, 1.1, 1.1, 1.0], 3, False),
        ([1.0, math.inf, math.inf, math.inf], 3, True),
        ([2.0, 1.0, 1.5], 1, True),
        ([], 1, False),
    ],
)
def test_training_stops_after_patience_losses_above_the_one_before(
    losses: list[float], patience: int, stops: bool
) -> None:
    assert should_stop(losses, patience) is stops


def test_the_example_that_is_documented() -> None:
    outcome = doctest.testmod(early_stop)
    assert outcome.attempted == 2
    assert outcome.failed == 0
