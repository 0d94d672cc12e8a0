"""A step's loss and gradient, from rows to sums over ranks, in float64 against the definitions written out.

Whatever the number of ranks, the size of the micro-batches, packing or padding and the order of the rows, they are
those of the formula, of which nothing here shares code with what is tested.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linear_model import HIDDEN, VOCABULARY, Linear, linear, make_split
from torch.nn.functional import cross_entropy, logsigmoid

from anneal_api.finetunejob import Adapter, FineTuneJobSpec
from anneal_trainers.base import model
from anneal_trainers.data.batches import Batch
from anneal_trainers.data.dataset import Split
from anneal_trainers.pod.channel import Channel
from anneal_trainers.pod.group import Group
from anneal_trainers.records.store import Store, Timer
from anneal_trainers.training import loop
from anneal_trainers.training.meter import share
from anneal_trainers.training.run import Run, StopFlag

BETA = 0.7
NAMES = ["a", "b", "c", "d"]
USER_WEIGHTS = [1.0, 2.5, 9.0, 0.5]
COBA_WEIGHTS = np.asarray([0.1, 0.4, 0.3, 0.2])
LENGTHS = [5, 9, 3, 16, 12, 4, 7, 2, 11, 6, 8, 13, 3, 5]
TASKS = [0, 0, 0, 1, 1, 3, 3, 0, 0, 1, 1, 3, 3, 3]
"""Task 2 has no row in any step."""
UNITS = [0, 1, 3, 5, 6, 7, 9, 10, 11, 14]
"""Some source rows are one row, some two, and the last is in three pieces."""
PAIRS = list(range(0, 15, 2))
PAIR_TASKS = [0, 0, 0, 0, 1, 1, 3, 3, 0, 0, 1, 1, 3, 3]
BALANCES = ["tokenMean", "rowMean", "taskMean", "taskRowMean", "coba", "lossDrop"]


class Attentive(Linear):
    """The smallest model whose states depend on what came before in the same document, and on where."""

    def states(self, batch: Batch) -> torch.Tensor:
        """Return [batch * positions, HIDDEN]: one causal head over each document."""
        inputs = super().states(batch).view(*batch.ids.shape, HIDDEN)
        inputs = inputs + torch.cos(batch.positions[..., None] * torch.arange(1.0, 1 + HIDDEN).double())
        begins = torch.tensor((batch.bounds or (0,))[1:-1], dtype=torch.long)
        document = torch.bucketize(torch.arange(batch.ids.shape[1]), begins, right=True)
        seen = (document[:, None] == document[None, :]).tril()
        scores = (inputs @ inputs.transpose(1, 2)).masked_fill(~seen, float("-inf"))
        return (scores.softmax(-1) @ inputs).reshape(-1, HIDDEN)


class OneOf(Group):
    """A rank whose sums are its own: the test adds them up."""

    def sum(self, tensor: torch.Tensor) -> None:
        """Add nothing."""


@dataclass(frozen=True)
class Outcome:
    """What a step came to: its loss, its gradient, its mean loss by task."""

    loss: float
    gradient: torch.Tensor
    by_task: list[float]


def attentive() -> Attentive:
    plain = linear()
    return Attentive(plain.model, plain.names, plain.flat, plain.gradient)


def move(trainee: model.Trainee, by: float) -> None:
    """Change the weights, as steps would."""
    trainee.flat.add_(by * torch.sin(torch.arange(trainee.flat.numel()).to(trainee.flat.dtype)))


def make_run(split: Split, trainee: model.Trainee, group: Group, data: dict[str, Any], **fields: Any) -> Run:
    spec = {
        "baseModel": {"uri": "file:///unused"},
        "tasks": [
            {"name": name, "weight": weight, "data": {"uri": "file:///unused"}}
            for name, weight in zip(NAMES, USER_WEIGHTS, strict=True)
        ],
        "optimization": {"dpoBeta": BETA, **fields},
        "data": data,
        "output": {"uri": "file:///unused"},
    }
    return Run(
        spec=FineTuneJobSpec.model_validate(spec),
        tasks=NAMES,
        train=split,
        # CoBa and lossDrop ask for validation rows of every task.
        validation=make_split([4] * 4, [0, 1, 2, 3]),
        trainee=trainee,
        group=group,
        store=Store("file:///unused", 1, "run", 1),
        channel=Channel(None),
        stop=StopFlag(),
        timer=Timer(None),
    )


def step(
    split: Split,
    rows: np.ndarray,
    *,
    world: int = 1,
    capacity: int = 16,
    packing: str = "bestFit",
    weights: np.ndarray,
    trainee: Callable[[], model.Trainee] = attentive,
    moved: float = 0.0,
    **fields: Any,
) -> Outcome:
    """Take the step on each of `world` ranks and add up; `moved` is how far the model is from where it started."""
    gradient, numbers = torch.zeros(()), torch.zeros(())
    for rank in range(world):
        made = trainee()
        run = make_run(split, made, OneOf(rank, world), {"maxLength": capacity, "packing": packing}, **fields)
        move(made, moved)
        tally = loop.accumulate(run, rows, weights, 0)
        gradient, numbers = gradient + made.gradient, numbers + tally.numbers
    tally.numbers = numbers
    return Outcome(tally.loss, gradient, tally.means())


def task_weights(balance: str) -> np.ndarray:
    return np.asarray(USER_WEIGHTS) * (COBA_WEIGHTS if balance == "coba" else 1.0)


def alone(trainee: model.Trainee, split: Split, row: int) -> torch.Tensor:
    """Return the nll of each learned token of a row that is the only one in its batch, [targets]."""
    ids, learned = (torch.from_numpy(part) for part in split.row(row))
    none = torch.zeros(0, dtype=torch.long)
    batch = Batch(ids[None], torch.arange(len(ids))[None], None, none, none, none.numpy())
    logits = trainee.states(batch)[:-1] @ trainee.head.T
    return cross_entropy(logits, ids[1:], reduction="none")[learned[1:]]


def definition(balance: str, split: Split, units: np.ndarray, trainee: model.Trainee) -> torch.Tensor:
    """Return the loss of some units, from the published definitions."""
    w = task_weights(balance)
    pieces = [
        torch.cat([alone(trainee, split, row) for row in range(split.units[unit], split.units[unit + 1])])
        for unit in units
    ]
    tasks = [int(split.tasks[split.units[unit]]) for unit in units]
    of_task = {
        k: [nll for nll, task in zip(pieces, tasks, strict=True) if task == k] for k in sorted(set(tasks))
    }
    if balance in ("tokenMean", "lossDrop"):
        top = sum(w[k] * torch.cat(nll).sum() for k, nll in of_task.items())
        return top / sum(w[k] * len(torch.cat(nll)) for k, nll in of_task.items())
    if balance == "rowMean":
        top = sum(w[k] * row.mean() for k, nll in of_task.items() for row in nll)
        return top / sum(w[k] * len(nll) for k, nll in of_task.items())
    if balance == "taskRowMean":
        inner = {k: torch.stack([row.mean() for row in nll]).mean() for k, nll in of_task.items()}
    else:
        inner = {k: torch.cat(nll).mean() for k, nll in of_task.items()}
    return sum(w[k] * inner[k] for k in inner) / sum(w[k] for k in inner)


def preference_definition(
    balance: str, split: Split, trainee: model.Trainee, start: model.Trainee
) -> torch.Tensor:
    """Return the DPO loss of all pairs: each counts w_k times, or each task's mean does."""
    w = np.asarray(USER_WEIGHTS)
    of_task: dict[int, list[torch.Tensor]] = {}
    for chosen in range(0, len(split), 2):
        here, there = ([-alone(t, split, chosen + i).sum() for i in (0, 1)] for t in (trainee, start))
        margin = BETA * ((here[0] - there[0].detach()) - (here[1] - there[1].detach()))
        of_task.setdefault(int(split.tasks[chosen]), []).append(-logsigmoid(margin))
    if balance in ("tokenMean", "rowMean"):
        top = sum(w[k] * sum(losses) for k, losses in of_task.items())
        return top / sum(w[k] * len(losses) for k, losses in of_task.items())
    return sum(w[k] * sum(losses) / len(losses) for k, losses in of_task.items()) / sum(w[k] for k in of_task)


def differentiated(trainee: model.Trainee, loss: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, trainee.model.weight)[0].reshape(-1)


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(
    ("capacity", "packing"), [(16, "bestFit"), (23, "bestFit"), (500, "bestFit"), (29, "none")]
)
def test_every_loss_and_its_gradient_are_the_definitions_however_a_step_is_parted(
    balance: str, world: int, capacity: int, packing: str
) -> None:
    split, trainee = make_split(LENGTHS, TASKS, UNITS), attentive()
    expected = definition(balance, split, np.arange(len(UNITS) - 1), trainee)
    found = step(
        split,
        np.arange(len(split)),
        world=world,
        capacity=capacity,
        packing=packing,
        weights=task_weights(balance),
        taskBalance=balance,
    )
    assert found.loss == pytest.approx(expected.item(), abs=1e-10)
    assert torch.allclose(found.gradient, differentiated(trainee, expected), atol=1e-10, rtol=0)


@pytest.mark.parametrize("balance", ["tokenMean", "rowMean", "taskMean", "taskRowMean"])
@pytest.mark.parametrize("world", [1, 2, 3, 11])
@pytest.mark.parametrize(("capacity", "packing"), [(16, "bestFit"), (41, "bestFit"), (16, "none")])
def test_preference_losses_and_their_gradient_are_the_definitions_however_a_step_is_parted(
    balance: str, world: int, capacity: int, packing: str
) -> None:
    split, trainee, start = make_split(LENGTHS, PAIR_TASKS, PAIRS), attentive(), attentive()
    move(trainee, 0.3)
    expected = preference_definition(balance, split, trainee, start)
    found = step(
        split,
        np.arange(len(split)),
        world=world,
        capacity=capacity,
        packing=packing,
        weights=np.asarray(USER_WEIGHTS),
        moved=0.3,
        taskBalance=balance,
        objective="dpo",
    )
    assert found.loss == pytest.approx(expected.item(), abs=1e-10)
    assert torch.allclose(found.gradient, differentiated(trainee, expected), atol=1e-10, rtol=0)


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("objective", ["supervised", "dpo"])
def test_the_order_of_units_changes_nothing(balance: str, objective: str) -> None:
    split = make_split(LENGTHS, PAIR_TASKS, PAIRS)
    orders = np.arange(7), np.random.default_rng(0).permutation(7)
    one, other = (
        step(
            split,
            split.rows_of(units),
            world=2,
            weights=task_weights(balance),
            moved=0.2,
            taskBalance=balance,
            objective=objective,
        )
        for units in orders
    )
    assert one.loss == pytest.approx(other.loss, abs=1e-10)
    assert torch.allclose(one.gradient, other.gradient, atol=1e-10, rtol=0)
    assert one.by_task == pytest.approx(other.by_task, abs=1e-10, nan_ok=True)


def test_losses_by_task_are_means_over_its_learned_tokens_alone() -> None:
    split, trainee = make_split(LENGTHS, TASKS, UNITS), attentive()
    found = step(split, np.arange(len(split)), world=3, weights=np.ones(4))
    for task in (0, 1, 3):
        rows = [row for row, of in enumerate(TASKS) if of == task]
        mean = torch.cat([alone(trainee, split, row) for row in rows]).mean()
        assert found.by_task[task] == pytest.approx(mean.item(), abs=1e-10)
    assert np.isnan(found.by_task[2])


@pytest.mark.parametrize("balance", ["taskMean", "taskRowMean", "coba"])
def test_the_weight_of_a_task_absent_from_a_step_counts_nowhere(balance: str) -> None:
    split, rows = make_split(LENGTHS, TASKS, UNITS), np.arange(5)
    weights = np.asarray([1.0, 2.0, 3.0, 4.0])
    light = step(split, rows, weights=weights, taskBalance=balance)
    heavy = step(split, rows, weights=weights * [1, 1, 1000, 1e-3], taskBalance=balance)
    assert light.loss == pytest.approx(heavy.loss, abs=1e-12)


def test_a_rank_without_rows_adds_nothing() -> None:
    """Fewer source rows than ranks: some have none, and the sums are the same."""
    split, rows = make_split(LENGTHS, TASKS, UNITS), np.arange(3)
    few, many = (step(split, rows, world=world, weights=np.ones(4)) for world in (1, 8))
    assert few.loss == pytest.approx(many.loss, abs=1e-12)
    assert torch.allclose(few.gradient, many.gradient, atol=1e-12, rtol=0)


@pytest.mark.parametrize("world", [1, 2, 3, 64])
@pytest.mark.parametrize("objective", ["supervised", "dpo"])
@pytest.mark.parametrize("batch", [{"globalBatchRows": 3}, {"globalBatchTokens": 40}])
def test_ranks_together_measure_every_row_of_an_epoch_once_and_part_no_pair(
    world: int, objective: str, batch: dict[str, int]
) -> None:
    split = make_split(LENGTHS, PAIR_TASKS, PAIRS)
    run = make_run(split, attentive(), Group(), {}, objective=objective, epochs=2, **batch)
    plan, seen, place = run.phases[0].plan, [], run.phases[0].plan.start()
    while place.step < plan.total_steps:
        units, place = plan.take(place, ())
        rows = split.rows_of(units)
        groups = run.goal.groups(split, rows)
        for rank in range(world):
            mine = rows[share(split, rows, groups, rank, world)].tolist()
            seen += mine
            if objective == "dpo":
                assert [row + 1 for row in mine[::2]] == mine[1::2]
    assert sorted(seen) == sorted([*range(len(split))] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["supervised", "dpo"])
def test_a_real_model_computes_in_packs_on_three_ranks_what_it_computes_row_by_row(
    tiny: Path, objective: str
) -> None:
    def build() -> model.Trainee:
        trainee = model.build(tiny, Adapter(type="lora", rank=4, alpha=8), 0, torch.device("cpu"))
        random = torch.Generator().manual_seed(0)
        trainee.flat.copy_(torch.randn(trainee.flat.shape, generator=random) * 0.05)
        return trainee

    split = make_split(LENGTHS, PAIR_TASKS, PAIRS)
    results = [
        step(
            split,
            np.arange(len(split)),
            world=world,
            capacity=capacity,
            packing=packing,
            weights=np.asarray(USER_WEIGHTS),
            trainee=build,
            moved=0.02,
            taskBalance="taskRowMean",
            objective=objective,
        )
        for world, capacity, packing in (
            (14, 16, "bestFit"),
            (3, 33, "bestFit"),
            (1, 500, "bestFit"),
            (2, 64, "none"),
        )
    ]
    largest = float(results[0].gradient.abs().max())
    assert largest > 1e-3
    for found in results[1:]:
        assert found.loss == pytest.approx(results[0].loss, rel=1e-5)
        assert torch.allclose(found.gradient, results[0].gradient, atol=1e-5 * largest, rtol=1e-3)


def test_the_model_of_these_tests_sees_its_context() -> None:
    """Else packing could be wrong and no test here would fail."""
    split, trainee = make_split([8], [0]), attentive()
    before = alone(trainee, split, 0)
    split.tokens[0] = (split.tokens[0] + 1) % VOCABULARY
    moved = (alone(trainee, split, 0) - before).abs()
    assert (moved > 1e-8).all()
    assert moved.max() > 1e-3
