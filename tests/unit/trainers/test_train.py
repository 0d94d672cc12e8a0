"""What the adapter's manifest tells of its training."""

import math

import pytest

from anneal_trainers import train
from anneal_trainers.records import checkpoint
from anneal_trainers.training import loop


def test_the_manifest_tells_losses_of_the_best_step_and_passes_of_each_task() -> None:
    state = checkpoint.State(
        step=9, best_step=4, losses=[2.0, 1.0, 3.0], best_task_losses={"a": 1.0}, passes=[0.5, 3.0], skipped=1
    )
    assert train.metadata(state, ["a", "b"]) == {
        "step": 9,
        "bestStep": 4,
        "validationLoss": 1.0,
        "validationLosses": [2.0, 1.0, 3.0],
        "taskLosses": {"a": 1.0},
        "passes": {"a": 0.5, "b": 3.0},
        "skippedSteps": 1,
    }


def test_without_validation_the_loss_told_is_that_of_training() -> None:
    state = checkpoint.State(step=2, best_step=2, train_loss=0.7, passes=[1.0])
    assert train.metadata(state, ["a"])["validationLoss"] == 0.7


def test_nothing_is_published_where_no_validation_gave_a_number() -> None:
    train.check_losses(checkpoint.State())
    train.check_losses(checkpoint.State(losses=[math.inf, 2.0]))
    with pytest.raises(loop.NonFiniteLoss, match="none of 2 validations had a finite loss"):
        train.check_losses(checkpoint.State(losses=[math.inf] * 2))
