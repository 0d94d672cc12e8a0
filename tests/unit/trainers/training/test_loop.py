"""What a run does around its steps: who decides where it goes on, when it validates, when ranks may leave."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from linear_model import linear, make_split
from thread_ranks import Meeting, stop_in, together

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_runtime.errors import Refused, TryAgain
from anneal_trainers.base.model import Trainee
from anneal_trainers.data.dataset import Split
from anneal_trainers.pod.channel import Channel
from anneal_trainers.pod.group import Group
from anneal_trainers.records import checkpoint, ledger
from anneal_trainers.records.store import Store
from anneal_trainers.training import assess, loop, meter
from anneal_trainers.training.resume import layout, resume
from anneal_trainers.training.run import Run, StopFlag


def split(seed: int = 0) -> Split:
    """Return rows of two tasks and of several lengths."""
    return make_split([4, 6, 2, 8, 5, 3, 7, 4], [0, 1] * 4, seed=seed)


OPTIMIZATION = {"maxSteps": 6, "globalBatchRows": 3, "learningRate": 0.1}


def task(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "data": {"uri": "file:///unused"}, **fields}


def make_run(folder: Path, group: Group | None = None, attempt: int = 1, **spec: Any) -> Run:
    fields: dict[str, Any] = {
        "baseModel": {"uri": "file:///unused"},
        "tasks": [task("a"), task("b")],
        "optimization": OPTIMIZATION,
        "output": {"uri": f"file://{folder}"},
    }
    return Run(
        spec=FineTuneJobSpec.model_validate(fields | spec),
        tasks=["a", "b"],
        train=split(),
        validation=split(seed=1),
        trainee=linear(),
        group=group or Group(),
        store=Store(f"file://{folder}", attempt, "run", 2),
        channel=Channel(None),
        stop=StopFlag(),
        attempt=attempt,
    )


def pairs(seed: int) -> Split:
    """Return four preference pairs of two tasks."""
    return make_split([4, 6, 2, 8, 5, 3, 7, 4], [0, 0, 1, 1] * 2, units=[0, 2, 4, 6, 8], seed=seed)


MODES: dict[str, dict[str, Any]] = {
    "natural": {},
    "shares": {"tasks": [task("a", samplingShare=0.8), task("b")]},
    "coba": {"optimization": OPTIMIZATION | {"taskBalance": "coba", "coba": {"warmupSteps": 3, "rows": 2}}},
    "lossDrop": {"optimization": OPTIMIZATION | {"taskBalance": "lossDrop", "learningRate": 0.001}},
    "stages": {
        "stages": [
            {"name": "first", "tasks": ["a"], "curriculum": True, "learningRate": 0.05, "epochs": 2},
            {"name": "second", "epochs": 2},
        ],
        "optimization": {"globalBatchRows": 3, "learningRate": 0.1, "schedule": "wsd"},
    },
    "dpo": {"optimization": OPTIMIZATION | {"objective": "dpo", "globalBatchRows": 2}},
}


def make_mode(folder: Path, mode: str, **more: Any) -> Run:
    run = make_run(folder, **MODES[mode], evaluation={"everySteps": 1}, checkpoint={"everySteps": 3}, **more)
    if mode == "dpo":
        run.train, run.validation = pairs(0), pairs(1)
        run.__post_init__()
    return run


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "stopped_at", [4, pytest.param(1, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow)]
)
def test_a_stopped_and_resumed_run_is_an_uninterrupted_one(
    tmp_path: Path, mode: str, stopped_at: int
) -> None:
    whole = make_mode(tmp_path / "whole", mode)
    expected = loop.train(whole)
    stopped = make_mode(tmp_path / "parted", mode)
    stop_in(stopped, stopped_at)
    with pytest.raises(TryAgain):
        loop.train(stopped)
    again = make_mode(tmp_path / "parted", mode, attempt=2)
    state = loop.train(again)
    assert asdict(replace(state, run="", sha256="")) == asdict(expected)
    assert torch.equal(again.trainee.flat, whole.trainee.flat)


def test_an_attempt_tells_which_checkpoint_it_has_gone_on_from(tmp_path: Path) -> None:
    stopped, again = make_run(tmp_path), make_run(tmp_path, attempt=2)
    told: list[dict[str, Any]] = []
    for run in (stopped, again):
        run.channel.send = told.append  # type: ignore[method-assign]
    stop_in(stopped, 3)
    with pytest.raises(TryAgain):
        loop.train(stopped)
    loop.train(again)
    said = [message["progress"] for message in told if "progress" in message]
    assert {progress["resumedStep"] for progress in said if progress["step"] < 3} == {0}
    assert {progress["resumedStep"] for progress in said if progress["step"] > 3} == {3}


def test_the_modes_do_what_they_are_named_for(tmp_path: Path) -> None:
    ends = {mode: loop.train(make_mode(tmp_path / mode, mode)) for mode in MODES}
    assert ends["shares"].drawn[0] == pytest.approx(4 * ends["shares"].drawn[1], rel=0.3)
    assert ends["lossDrop"].shares != [0.5, 0.5]
    assert len(ends["coba"].coba["largest"]) == 4
    assert (ends["stages"].stage, ends["stages"].stage_start, ends["stages"].step) == (1, 4, 10)
    assert ends["stages"].passes == [2.0, 2.0]


def test_coba_weighs_tasks_only_after_its_warm_up(tmp_path: Path) -> None:
    run, seen = make_mode(tmp_path, "coba"), {}
    run.record = lambda step, values: seen.update({step: (values["weight/a"], values["weight/b"])})
    loop.train(run)
    assert seen[2] == (0.5, 0.5)
    assert seen[3] != (0.5, 0.5)
    assert all(sum(weights) == pytest.approx(1) for weights in seen.values())


def test_the_first_step_of_a_preference_run_costs_log_2_and_later_ones_less(tmp_path: Path) -> None:
    run, seen = make_mode(tmp_path, "dpo"), []
    run.record = lambda step, values: seen.append(values["train/loss"])
    loop.train(run)
    assert seen[0] == pytest.approx(math.log(2))
    assert seen[-1] < seen[0]


def test_a_stage_starts_with_fresh_moments_and_its_own_rate(tmp_path: Path) -> None:
    run, rates = make_mode(tmp_path, "stages"), []
    run.record = lambda step, values: rates.append(values["learning_rate"])
    loop.train(run)
    assert max(rates[:4]) == 0.05
    assert max(rates[4:]) == 0.1
    saved = run.store.at(run.store.latest)
    assert saved is not None
    assert float(saved[1]["step"]) == 6


def test_balances_that_follow_validation_refuse_a_task_without_validation_rows(tmp_path: Path) -> None:
    run = make_mode(tmp_path, "coba")
    run.validation = make_split([4, 5], [0, 0])
    with pytest.raises(Refused, match="taskBalance: coba .* b has no validation row"):
        run.__post_init__()


def test_the_ledger_tells_every_step_and_the_rows_in_it(tmp_path: Path) -> None:
    run = make_mode(tmp_path, "natural")
    loop.train(run)
    entries = ledger.read(f"file://{tmp_path}")
    assert [entry.step for entry in entries] == [1, 2, 3, 4, 5, 6]
    first = [digest for entry in entries[:3] for digest in entry.rows]
    assert sorted(first) == sorted(digest[:8].tobytes().hex() for digest in run.train.digests)
    assert all(entry.finite and entry.gradient_norm > 0 for entry in entries)
    assert set(entries[0].task_losses) <= {"a", "b"}


def test_a_step_that_is_not_finite_changes_nothing_and_ten_in_a_row_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, optimization={"maxSteps": 50, "globalBatchRows": 3})
    before, plain = run.trainee.flat.clone(), run.goal.measure

    def poisoned(*arguments: Any) -> Any:
        part = plain(*arguments)
        return replace(part, loss=part.loss * math.nan)

    monkeypatch.setattr(run.goal, "measure", poisoned)
    with pytest.raises(loop.NonFiniteLoss, match="10 steps in a row up to step 10"):
        loop.train(run)
    assert torch.equal(run.trainee.flat, before)
    entries = ledger.read(f"file://{tmp_path}")
    assert [entry.finite for entry in entries] == [False] * 10


def resumed(run: Run) -> checkpoint.State | None:
    return resume(run.store, run.group, run.trainee, loop.make_optimizer(run.trainee))


def save(folder: Path, step: int, value: float = 0.0) -> None:
    store = Store(f"file://{folder}", 1, "run", 9)
    state = checkpoint.State(step=step, layout=layout(linear()))
    store.save(state, {"adapter": torch.full((16,), value, dtype=torch.float64)})
    store.wait()


def test_rank_0_decides_which_checkpoint_all_restore(tmp_path: Path) -> None:
    for rank, steps in ((0, [1, 2]), (1, [1, 2, 3])):
        for step in steps:
            save(tmp_path / str(rank), step, float(step))
    meeting = Meeting()
    runs = [make_run(tmp_path / str(rank), meeting.rank(rank)) for rank in (0, 1)]
    assert [state.step for state in together(lambda rank: resumed(runs[rank]))] == [2, 2]
    assert [run.trainee.flat.tolist() for run in runs] == [[2.0] * 16] * 2


@pytest.mark.parametrize(("step", "value"), [(1, 2.0), (2, 9.0)], ids=["absent", "of other content"])
def test_a_checkpoint_that_not_all_ranks_can_read_is_restored_by_none(
    tmp_path: Path, step: int, value: float
) -> None:
    save(tmp_path / "0", 2, 2.0)
    save(tmp_path / "1", step, value)
    meeting = Meeting()
    runs = [make_run(tmp_path / str(rank), meeting.rank(rank)) for rank in (0, 1)]
    errors = together(lambda rank: resumed(runs[rank]))
    assert [type(error) for error in errors] == [TryAgain, TryAgain]
    assert errors[0].reason == "CheckpointUnreadable"
    assert torch.equal(runs[0].trainee.flat, linear().flat)


def test_a_checkpoint_of_another_layout_is_refused_and_what_to_do_is_told(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}", 1, "run", 2)
    store.save(checkpoint.State(step=1, layout="3 tensors"), {"adapter": torch.zeros(16)})
    store.wait()
    told = "step 1 holds 3 tensors; this run's adapter has 1 tensors, 16 weights.*trainers image that began"
    with pytest.raises(Refused, match=told) as refused:
        resumed(make_run(tmp_path))
    assert refused.value.reason == "OtherLayout"
    assert torch.equal(make_run(tmp_path).trainee.flat, linear().flat)


def test_a_checkpoint_names_the_tensors_it_is_laid_out_for() -> None:
    """As many tensors and weights, of other names or shapes, are another layout."""

    def trainee(**shapes: tuple[int, int]) -> Trainee:
        model = torch.nn.ParameterDict({name: torch.zeros(shape) for name, shape in shapes.items()})
        return Trainee(model, sorted(shapes), torch.zeros(6), torch.zeros(6))

    models = [trainee(a=(2, 3)), trainee(b=(2, 3)), trainee(a=(3, 2))]
    assert len({layout(model) for model in models}) == 3
    assert layout(trainee(a=(2, 3))) == layout(models[0])


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
    stop_in(runs[1], 1)

    def left(rank: int) -> tuple[bool, str]:
        with pytest.raises(TryAgain) as caught:
            loop.train(runs[rank])
        return written.is_set(), caught.value.reason

    assert together(left) == [(True, "Preempted")] * 2


def test_a_save_in_flight_is_whole_though_a_peer_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, write, take_step = threading.Event(), checkpoint.write, loop.take_step

    def late(*arguments: Any) -> None:
        assert lost.wait(20)
        time.sleep(0.2)
        write(*arguments)

    def alone(run: Run, state: checkpoint.State, optimizer: Any) -> Any:
        if state.step == 1:
            lost.set()
            raise TryAgain("PeerLost", "rank 0 lost a peer")
        return take_step(run, state, optimizer)

    monkeypatch.setattr(checkpoint, "write", late)
    monkeypatch.setattr(loop, "take_step", alone)
    run = make_run(tmp_path, checkpoint={"everySteps": 1})
    with pytest.raises(TryAgain, match="lost a peer"):
        loop.train(run)
    assert run.store.at(1) is not None


def test_two_ranks_learn_what_one_learns(tmp_path: Path) -> None:
    alone = make_run(tmp_path / "alone")
    expected = loop.train(alone)
    meeting = Meeting()
    runs = [make_run(tmp_path / "pair", meeting.rank(rank)) for rank in (0, 1)]
    states = together(lambda rank: loop.train(runs[rank]))
    for run, state in zip(runs, states, strict=True):
        assert state.losses == pytest.approx(expected.losses)
        assert torch.allclose(run.trainee.flat, alone.trainee.flat, atol=1e-6)


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    """The rows of every step stay the same; losses, sums of 16 floats in another order, agree to 1e-12."""
    loop.train(make_run(tmp_path / "whole", evaluation={"everySteps": 1}))
    stopped = make_run(tmp_path / "parted", evaluation={"everySteps": 1})
    stop_in(stopped, 3)
    with pytest.raises(TryAgain):
        loop.train(stopped)
    meeting = Meeting()
    pair = [
        make_run(tmp_path / "parted", meeting.rank(rank), attempt=2, evaluation={"everySteps": 1})
        for rank in (0, 1)
    ]
    together(lambda rank: loop.train(pair[rank]))
    whole, parted = (ledger.read(f"file://{tmp_path / name}") for name in ("whole", "parted"))
    assert [entry.world for entry in parted] == [1, 1, 1, 2, 2, 2]
    assert [entry.rows for entry in parted] == [entry.rows for entry in whole]
    assert [entry.loss for entry in parted] == pytest.approx([entry.loss for entry in whole], rel=1e-12)


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
    stop_in(stopped, 1)
    with monkeypatch.context() as patch, pytest.raises(TryAgain):
        patch.setattr(assess, "with_validation", lambda *_: pytest.fail("validated after SIGTERM"))
        loop.train(stopped)
    again = make_run(tmp_path / "parted", attempt=2, evaluation={"everySteps": 1})
    assert loop.train(again).losses == expected.losses


@pytest.mark.parametrize(
    ("mode", "asks"), [("natural", 0), ("natural", 1), ("natural", 3), ("coba", 0), ("coba", 2)]
)
def test_sigterm_in_a_measurement_ends_all_ranks_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, asks: int
) -> None:
    """Rank 1 is told to stop in the first batch it measures after step `asks`; the next attempt does all anew."""
    often = {"everySteps": 1 if mode == "natural" else 9}
    spec = MODES[mode] | {"evaluation": often, "data": {"maxLength": 16}}
    expected = loop.train(make_run(tmp_path / "whole", **spec))
    monkeypatch.setattr(meter, "TURN_TOKENS", 1)
    meeting, measured = Meeting(), 0
    runs = [make_run(tmp_path / "parted", meeting.rank(rank), **spec) for rank in (0, 1)]
    plain, follow = runs[1].goal.measure, assess.assess
    assessed: dict[int, int] = {}

    def noted(run: Run, state: checkpoint.State) -> checkpoint.State:
        assessed[run.group.rank] = state.step
        return follow(run, state)

    def measure(*arguments: Any) -> Any:
        nonlocal measured
        if not torch.is_grad_enabled() and assessed[1] == asks:
            measured += 1
            runs[1].stop.asked = True
        return plain(*arguments)

    monkeypatch.setattr(assess, "assess", noted)
    monkeypatch.setattr(runs[1].goal, "measure", measure)
    errors = together(lambda rank: loop.train(runs[rank]))
    assert [getattr(error, "reason", error) for error in errors] == ["Preempted"] * 2
    assert measured == 1
    assert (runs[0].store.latest or 0) == asks
    again = make_run(tmp_path / "parted", attempt=2, **spec)
    found = loop.train(again)
    assert found.losses == pytest.approx(expected.losses, rel=1e-12)
    assert found.step == expected.step


def test_the_time_of_a_validation_is_none_of_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, take_step, assess_it = [0.0], loop.take_step, assess.assess

    def later(seconds: float, work: Callable[..., Any]) -> Callable[..., Any]:
        def worked(*arguments: Any) -> Any:
            clock[0] += seconds
            return work(*arguments)

        return worked

    monkeypatch.setattr(loop, "take_step", later(2.0, take_step))
    monkeypatch.setattr(assess, "assess", later(100.0, assess_it))
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    run, speeds = make_run(tmp_path, optimization={"maxSteps": 1, "globalBatchRows": 8}), []
    run.record = lambda step, values: speeds.append(values["tokens_per_second"])
    loop.train(run)
    assert speeds == [round(int(run.train.lengths.sum()) / 2.0, 1)]


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


@pytest.mark.parametrize("mode", ["natural", "stages", "dpo"])
def test_the_losses_training_begins_at_are_told_by_task_to_the_end(tmp_path: Path, mode: str) -> None:
    run = make_mode(tmp_path, mode)
    fresh = run.meter.total(run.validation, np.arange(len(run.validation)), np.zeros(len(run.validation)))
    expected = dict(zip("ab", fresh.means(), strict=True))
    state = loop.train(run)
    assert state.first_task_losses == expected
    assert state.task_losses != expected
    assert loop.train(make_mode(tmp_path, mode, attempt=2)).first_task_losses == expected


def test_without_losses_of_its_own_a_stage_tells_none_of_an_earlier_one(tmp_path: Path) -> None:
    run = make_mode(tmp_path, "stages")
    earlier = checkpoint.State(step=4, losses=[1.0], best_step=4, best_task_losses={"a": 1.0})
    state = loop.enter(run, earlier, 1)
    assert (state.best_step, state.losses, state.best_task_losses) == (0, [], {})
    state = assess.with_validation(replace(state, step=5), None, [2.0, math.nan], ["a", "b"])
    assert (state.best_step, state.losses, state.best_task_losses) == (5, [], {"a": 2.0})


def test_rows_counts_are_taken_once() -> None:
    rows = split()
    assert rows.targets.tolist() == [2, 3, 1, 4, 3, 2, 4, 2]
    assert rows.targets is rows.targets
    assert rows.lengths is rows.lengths
