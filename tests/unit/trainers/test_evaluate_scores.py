"""A loss that is no number is told by name, not published."""

import math

import pytest

from anneal_api.outcome import Score
from anneal_trainers import evaluate
from anneal_trainers.training.loop import NonFiniteLoss


def score(base: float, tuned: float) -> Score:
    return Score(name="a", base_loss=base, tuned_loss=tuned, rows=3)


@pytest.mark.parametrize("losses", [(1.0, math.nan), (math.inf, 1.0)])
def test_a_score_that_is_no_number_fails_with_a_reason(losses: tuple[float, float]) -> None:
    with pytest.raises(NonFiniteLoss, match=f"a: {losses[0]} before, {losses[1]} after.*learningRate"):
        evaluate.check([score(2.0, 1.0), score(*losses)])


def test_scores_that_are_numbers_pass() -> None:
    evaluate.check([score(2.0, 1.0)])
