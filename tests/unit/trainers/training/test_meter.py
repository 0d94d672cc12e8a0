"""Ranks measure every row once; where a layer is gathered from all of them, they pass through the model as often."""

from typing import Any

import numpy as np
import pytest
from linear_model import linear, make_split

from anneal_api.finetunejob import Data, Optimization
from anneal_trainers.pod.channel import Channel
from anneal_trainers.pod.group import Group
from anneal_trainers.training import objective
from anneal_trainers.training.meter import Meter

SPLIT = make_split([16, 15, 3, 3, 14, 2, 2, 9], [0, 1] * 4)
ROWS = np.arange(8)


def measured(rank: int, world: int, in_step: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Any, float]:
    """Return how often a rank passes through the model, what it counts, and the size of its gradient."""
    trainee = linear()
    goal = objective.make(Optimization(), trainee)
    calls, plain = [], goal.measure
    monkeypatch.setattr(goal, "measure", lambda *a: calls.append(a) or plain(*a))
    meter = Meter(goal, trainee, Data(max_length=16), 2, Group(rank, world), Channel(None), in_step)
    items = []
    for part, tasks in meter.parts(SPLIT, ROWS, np.full(8, 0.1), "compute"):
        part.loss.backward()
        items += list(zip(part.values.tolist(), tasks.tolist(), strict=True))
    return len(calls), items, float(trainee.gradient.norm())


@pytest.mark.parametrize("world", [2, 9])
def test_in_step_all_ranks_pass_as_often_and_nothing_else_changes(
    world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [measured(rank, world, False, monkeypatch) for rank in range(world)]
    held = [measured(rank, world, True, monkeypatch) for rank in range(world)]
    assert len({calls for calls, _, _ in free}) > 1
    assert {calls for calls, _, _ in held} == {max(calls for calls, _, _ in free)}
    assert [found[1:] for found in held] == [found[1:] for found in free]
    assert sum(len(items) for _, items, _ in held) == SPLIT.targets.sum()
