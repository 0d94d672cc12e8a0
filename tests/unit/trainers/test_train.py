"""What the adapter's manifest tells of its training."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from linear_model import linear

from anneal_runtime.errors import TryAgain
from anneal_trainers import train
from anneal_trainers.records import checkpoint
from anneal_trainers.records.store import Store
from anneal_trainers.training import loop


def test_the_manifest_tells_losses_of_the_best_step_and_passes_of_each_task() -> None:
    state = checkpoint.State(
        step=9,
        best_step=4,
        losses=[2.0, 1.0, 3.0],
        first_task_losses={"a": 4.0},
        train_loss=0.25,
        best_task_losses={"a": 1.0},
        passes=[0.5, 3.0],
        skipped=1,
    )
    assert train.metadata(state, ["a", "b"]) == {
        "step": 9,
        "bestStep": 4,
        "trainLoss": 0.25,
        "validationLoss": 1.0,
        "validationLosses": [2.0, 1.0, 3.0],
        "firstTaskLosses": {"a": 4.0},
        "taskLosses": {"a": 1.0},
        "passes": {"a": 0.5, "b": 3.0},
        "skippedSteps": 1,
    }


@pytest.mark.parametrize("damaged", [2, 3], ids=["the best", "the final"])
def test_nothing_is_published_unless_the_best_and_the_final_checkpoint_are_read_back(
    make_run: Any, tmp_path: Path, damaged: int
) -> None:
    run = SimpleNamespace(store=Store(f"file://{tmp_path}", 1, "run", 9), trainee=linear())
    for step in (2, 3):
        run.store.save(checkpoint.State(step=step), {"adapter": torch.zeros(16, dtype=torch.float64)})
    run.store.wait()
    content = tmp_path / "attempt-1" / f"step-0000000{damaged}" / "state.safetensors"
    content.write_bytes(content.read_bytes()[:-1] + b"\x01")
    with pytest.raises(TryAgain, match=f"the checkpoint of step {damaged} cannot be read back") as caught:
        train.publish(make_run(), run, checkpoint.State(step=3, best_step=2))
    assert caught.value.reason == "CheckpointLost"
    assert not (tmp_path / "store").exists()


def test_without_validation_no_loss_of_one_is_told() -> None:
    state = checkpoint.State(step=2, best_step=2, train_loss=0.7, passes=[1.0])
    told = train.metadata(state, ["a"])
    assert (told["trainLoss"], told["validationLoss"]) == (0.7, None)


def test_nothing_is_published_where_no_validation_gave_a_number() -> None:
    train.check_losses(checkpoint.State())
    train.check_losses(checkpoint.State(losses=[math.inf, 2.0]))
    with pytest.raises(loop.NonFiniteLoss, match="none of 2 validations had a finite loss"):
        train.check_losses(checkpoint.State(losses=[math.inf] * 2))
