"""What a run does around its steps: who decides where it goes on, when it validates, when ranks may leave."""

import math
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_runtime.errors import TryAgain
from anneal_trainers import assess, checkpoint, loop
from anneal_trainers.channel import Channel
from anneal_trainers.dataset import Split
from anneal_trainers.group import Group
from anneal_trainers.resume import layout, resume

sys.path.insert(0, str(Path(__file__).parents[2]))
from linear_model import linear, make_split


class Meeting:
    """Two ranks in two threads that add up tensors."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=20)
        self.parts: dict[int, torch.Tensor] = {}

    def rank(self, number: int) -> Group:
        meeting = self

        class Thread(Group):
            def sum(self, tensor: torch.Tensor) -> None:
                meeting.parts[self.rank] = tensor.clone()
                meeting.barrier.wait()
                total = meeting.parts[0] + meeting.parts[1]
                meeting.barrier.wait()
                tensor.copy_(total)

        return Thread(number, 2)


def split(seed: int = 0) -> Split:
    """Return rows of two tasks and of several lengths."""
    return make_split([4, 6, 2, 8, 5, 3, 7, 4], [0, 1] * 4, seed=seed)


def make_run(folder: Path, group: Group | None = None, attempt: int = 1, **spec: Any) -> loop.Run:
    fields: dict[str, Any] = {
        "baseModel": {"uri": "file:///unused"},
        "tasks": [{"name": name, "data": {"uri": "file:///unused"}} for name in ("a", "b")],
        "optimization": {"maxSteps": 6, "globalBatchRows": 3, "learningRate": 0.1},
        "output": {"uri": f"file://{folder}"},
    }
    return loop.Run(
        spec=FineTuneJobSpec.model_validate(fields | spec),
        tasks=["a", "b"],
        train=split(),
        validation=split(seed=1),
        trainee=linear(),
        group=group or Group(),
        store=checkpoint.Store(f"file://{folder}", attempt, "run", 2),
        channel=Channel(None),
        stop=loop.StopFlag(),
        timer=checkpoint.Timer(None),
        attempt=attempt,
    )


def both(work: Callable[[int], Any]) -> list[Any]:
    """Return what `work` returns or raises for rank 0 and rank 1, run at the same time."""

    def caught(rank: int) -> Any:
        try:
            return work(rank)
        except Exception as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(caught, (0, 1)))


def resumed(run: loop.Run) -> checkpoint.State | None:
    return resume(run.store, run.group, run.trainee, loop.make_optimizer(run.trainee))


def save(folder: Path, step: int, value: float = 0.0) -> None:
    store = checkpoint.Store(f"file://{folder}", 1, "run", 9)
    state = checkpoint.State(step=step, layout=layout(linear()))
    store.save(state, {"adapter": torch.full((16,), value, dtype=torch.float64)})
    store.wait()


def test_rank_0_decides_which_checkpoint_all_restore(tmp_path: Path) -> None:
    for rank, steps in ((0, [1, 2]), (1, [1, 2, 3])):
        for step in steps:
            save(tmp_path / str(rank), step, float(step))
    meeting = Meeting()
    runs = [make_run(tmp_path / str(rank), meeting.rank(rank)) for rank in (0, 1)]
    assert [state.step for state in both(lambda rank: resumed(runs[rank]))] == [2, 2]
    assert [run.trainee.flat.tolist() for run in runs] == [[2.0] * 16] * 2


@pytest.mark.parametrize(("step", "value"), [(1, 2.0), (2, 9.0)], ids=["absent", "of other content"])
def test_a_checkpoint_that_not_all_ranks_can_read_is_restored_by_none(
    tmp_path: Path, step: int, value: float
) -> None:
    save(tmp_path / "0", 2, 2.0)
    save(tmp_path / "1", step, value)
    meeting = Meeting()
    runs = [make_run(tmp_path / str(rank), meeting.rank(rank)) for rank in (0, 1)]
    errors = both(lambda rank: resumed(runs[rank]))
    assert [type(error) for error in errors] == [TryAgain, TryAgain]
    assert errors[0].reason == "CheckpointUnreadable"
    assert torch.equal(runs[0].trainee.flat, linear().flat)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    store = checkpoint.Store(f"file://{tmp_path}", 1, "run", 2)
    store.save(checkpoint.State(step=1, layout="3 tensors"), {"adapter": torch.zeros(16)})
    store.wait()
    with pytest.raises(ValueError, match="holds 3 tensors; the model has 1 tensors, 16 weights"):
        resumed(make_run(tmp_path))


def test_no_rank_leaves_before_the_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = threading.Event()
    write = checkpoint.write

    def slowly(*arguments: Any) -> None:
        time.sleep(0.3)
        write(*arguments)
        written.set()

    monkeypatch.setattr(checkpoint, "write", slowly)
    meeting = Meeting()
    runs = [make_run(tmp_path, meeting.rank(rank)) for rank in (0, 1)]
    runs[1].stop.asked = True

    def left(rank: int) -> tuple[bool, str]:
        with pytest.raises(TryAgain) as caught:
            loop.train(runs[rank])
        return written.is_set(), caught.value.reason

    assert both(left) == [(True, "Preempted")] * 2


def test_two_ranks_learn_what_one_learns(tmp_path: Path) -> None:
    alone = make_run(tmp_path / "alone")
    expected = loop.train(alone)
    meeting = Meeting()
    runs = [make_run(tmp_path / "pair", meeting.rank(rank)) for rank in (0, 1)]
    states = both(lambda rank: loop.train(runs[rank]))
    for run, state in zip(runs, states, strict=True):
        assert state.losses == pytest.approx(expected.losses)
        assert torch.allclose(run.trainee.flat, alone.trainee.flat, atol=1e-6)


def test_the_best_step_is_kept_though_no_checkpoint_is_due_then(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        evaluation={"everySteps": 2},
        optimization={"maxSteps": 31, "learningRate": 1.0, "minLearningRate": 1.0},
    )
    state = loop.train(run)
    assert len(state.losses) == 16
    assert state.best_step == [*range(2, 31, 2), 31][int(np.argmin(state.losses))]
    assert state.best_step < state.step
    assert run.store.at(state.best_step) is not None


def test_sigterm_waits_for_no_validation_and_the_next_attempt_makes_up_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = loop.train(make_run(tmp_path / "whole", evaluation={"everySteps": 1}))
    stopped = make_run(tmp_path / "parted", evaluation={"everySteps": 1})
    stopped.stop.asked = True
    with monkeypatch.context() as patch, pytest.raises(TryAgain):
        patch.setattr(assess, "validate", lambda *_: pytest.fail("validated after SIGTERM"))
        loop.train(stopped)
    again = make_run(tmp_path / "parted", attempt=2, evaluation={"everySteps": 1})
    assert loop.train(again).losses == expected.losses


def test_early_stopping_ends_the_run_and_a_further_attempt_takes_no_step(tmp_path: Path) -> None:
    spec = {
        "optimization": {"maxSteps": 50, "learningRate": 1.0, "earlyStopping": {"patience": 1}},
        "evaluation": {"everySteps": 1},
    }
    first = loop.train(make_run(tmp_path, **spec))
    assert first.step < 50
    assert first.losses[-1] > first.losses[-2]
    again = loop.train(make_run(tmp_path, attempt=2, **spec))
    assert (again.step, again.best_step, again.losses) == (first.step, first.best_step, first.losses)


def test_the_best_steps_task_losses_stay_with_it_and_no_number_is_never_the_best() -> None:
    state = checkpoint.State(step=1)
    for step, loss in ((1, 2.0), (2, 1.0), (3, 1.5), (4, math.nan)):
        state = assess.with_validation(replace(state, step=step), loss, [loss], ["a"])
    assert (state.best_step, state.best_task_losses) == (2, {"a": 1.0})
    assert state.losses == [2.0, 1.0, 1.5, math.inf]


def test_rows_counts_are_taken_once() -> None:
    rows = split()
    assert rows.targets.tolist() == [2, 3, 1, 4, 3, 2, 4, 2]
    assert rows.targets is rows.targets
    assert rows.lengths is rows.lengths
