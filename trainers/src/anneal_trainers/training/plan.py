"""Which rows make which optimizer step. Knows no world size: ranks take their share when the step runs.

What is drawn are units: source rows, whose pieces (or whose chosen and rejected answers) stay in one step.
Where shares are natural, a pass is a permutation of all units seeded by (seed, stage, pass), and consecutive
units of it form steps, so every unit is in exactly one step of a pass. Where tasks have sampling shares,
each task has its own passes and the task that is furthest behind its share gives the next unit. A curriculum
takes the first pass from easy to hard. All that a run has to remember is its Place.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from anneal_api.finetunejob import Optimization
from anneal_api.sizing import DEFAULT_BATCH_ROWS

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Units:
    """What there is to draw: [units] tokens, task and difficulty of each unit."""

    lengths: npt.NDArray[Any]
    tasks: npt.NDArray[Any]
    difficulty: npt.NDArray[Any]

    def of_tasks(self, tasks: Sequence[int]) -> Ints:
        """Return the indices of the units of some tasks."""
        return np.flatnonzero(np.isin(self.tasks, tasks))


@dataclass(frozen=True)
class Place:
    """Where a run stands in its stage.

    step: steps taken of the stage.
    consumed: units taken of each task.
    drawn: tokens taken of each task since the shares were last set.
    """

    step: int
    consumed: tuple[int, ...]
    drawn: tuple[int, ...]


@dataclass(frozen=True)
class Order:
    """The passes of one set of units: a seeded permutation each, the first by difficulty under a curriculum."""

    units: Units
    chosen: Ints
    seed: tuple[int, ...]
    curriculum: bool
    _last: dict[int, Ints] = field(default_factory=dict, compare=False)

    def of(self, number: int) -> Ints:
        """Return the units in the order of pass `number`, counted from 0; only the last one asked for is kept."""
        if number not in self._last:
            self._last.clear()
            order = self.chosen[np.random.default_rng([*self.seed, number]).permutation(len(self.chosen))]
            self._last[number] = self._easy_first(order) if self.curriculum and number == 0 else order
        return self._last[number]

    def _easy_first(self, order: Ints) -> Ints:
        rank = difficulty_rank(self.units.tasks[order], self.units.difficulty[order])
        return order[np.argsort(rank, kind="stable")]


def difficulty_rank(tasks: npt.NDArray[Any], difficulty: npt.NDArray[Any]) -> Floats:
    """Return each unit's rank by difficulty within its task, over the task's size: scales of tasks don't mix."""
    rank = np.empty(len(tasks))
    for task in np.unique(tasks):
        where = np.flatnonzero(tasks == task)
        rank[where[np.argsort(difficulty[where], kind="stable")]] = np.arange(len(where)) / len(where)
    return rank


class Plan(Protocol):
    """The steps of a stage."""

    total_steps: int

    def start(self) -> Place:
        """Return where the stage begins."""

    def take(self, place: Place, shares: Sequence[float]) -> tuple[Ints, Place]:
        """Return the units of the step at `place`, and the place after it."""


class Natural:
    """Every unit exactly once a pass, tasks in their natural shares."""

    def __init__(self, order: Order, tasks: int, optimization: Optimization, epochs: float | None) -> None:
        self._order = order
        self._tasks = tasks
        self._budget = Budget.of(optimization)
        self._first = [0]
        self._bounds: dict[int, list[int]] = {}
        self.total_steps = (
            optimization.max_steps
            if epochs is None and optimization.max_steps
            else self._steps(epochs or 1.0)
        )

    def start(self) -> Place:
        """Return where the stage begins."""
        return Place(0, (0,) * self._tasks, ())

    def take(self, place: Place, shares: Sequence[float] = ()) -> tuple[Ints, Place]:
        """Return the units of the step at `place`, and the place after it."""
        units = self.units(place.step)
        counts = np.bincount(self._order.units.tasks[units], minlength=self._tasks)
        return units, Place(place.step + 1, tuple((counts + place.consumed).tolist()), ())

    def units(self, step: int) -> Ints:
        """Return the units of `step`, counted from 0."""
        number = 0
        while step >= self._end_of(number):
            number += 1
        bounds, inside = self._pass(number), step - self._first[number]
        return self._order.of(number)[bounds[inside] : bounds[inside + 1]]

    def _end_of(self, number: int) -> int:
        while len(self._first) <= number + 1:
            self._first.append(self._first[-1] + len(self._pass(len(self._first) - 1)) - 1)
        return self._first[number + 1]

    def _pass(self, number: int) -> list[int]:
        if number not in self._bounds:
            self._bounds.clear()
            self._bounds[number] = self._budget.bounds(self._order.units.lengths[self._order.of(number)])
        return self._bounds[number]

    def _steps(self, epochs: float) -> int:
        whole, part = int(epochs), epochs - int(epochs)
        full = self._end_of(whole - 1) if whole else 0
        return full + (math.ceil(part * (len(self._pass(whole)) - 1)) if part > 0 else 0)


class Shared:
    """Tasks in given shares of the tokens, each with passes of its own; the shares may move between steps."""

    def __init__(self, orders: Sequence[Order], optimization: Optimization, total_steps: int) -> None:
        self._orders = orders
        self._budget = Budget.of(optimization)
        self.total_steps = total_steps

    def start(self) -> Place:
        """Return where the stage begins."""
        return Place(0, (0,) * len(self._orders), (0,) * len(self._orders))

    def take(self, place: Place, shares: Sequence[float]) -> tuple[Ints, Place]:
        """Return the units of the step at `place`, and the place after it.

        The next unit is always that of the task furthest behind its share, so over any stretch the shares
        hold to within the longest unit.
        """
        consumed, drawn = list(place.consumed), list(place.drawn)
        taken: list[int] = []
        tokens = 0
        while True:
            task = furthest_behind(shares, drawn)
            unit = self._unit(task, consumed[task])
            length = int(self._orders[task].units.lengths[unit])
            if taken and not self._budget.has_room(len(taken), tokens, length):
                return np.asarray(taken, np.int64), Place(place.step + 1, tuple(consumed), tuple(drawn))
            taken.append(unit)
            tokens += length
            consumed[task] += 1
            drawn[task] += length

    def _unit(self, task: int, consumed: int) -> int:
        number, inside = divmod(consumed, len(self._orders[task].chosen))
        return int(self._orders[task].of(number)[inside])


def furthest_behind(shares: Sequence[float], drawn: Sequence[int]) -> int:
    """Return the task with a share that has drawn the least tokens for it; the first of several."""
    return min(
        (k for k, s in enumerate(shares) if s > 0), key=lambda k: (drawn[k] / shares[k], -shares[k], k)
    )


@dataclass(frozen=True)
class Budget:
    """How much one step takes: tokens, or units where `tokens` is None."""

    tokens: int | None
    rows: int

    @classmethod
    def of(cls, optimization: Optimization) -> "Budget":
        """Return the budget a spec asks for."""
        return cls(optimization.global_batch_tokens, optimization.global_batch_rows or DEFAULT_BATCH_ROWS)

    def has_room(self, rows: int, tokens: int, length: int) -> bool:
        """Say whether a step of `rows` units and `tokens` tokens takes one more of `length` tokens."""
        return rows < self.rows if self.tokens is None else tokens + length <= self.tokens

    def bounds(self, lengths: npt.NDArray[Any]) -> list[int]:
        """Return where steps over units of these lengths begin, and where the last one ends."""
        if self.tokens is None:
            return [*range(0, len(lengths), self.rows), len(lengths)]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        bounds = [0]
        while bounds[-1] < len(lengths):
            following = int(np.searchsorted(ends, ends[bounds[-1]] + self.tokens, side="right")) - 1
            bounds.append(max(following, bounds[-1] + 1))
        return bounds


def natural(
    units: Units,
    tasks: int,
    optimization: Optimization,
    *,
    chosen: Ints | None = None,
    stage: int = 0,
    curriculum: bool = False,
    epochs: float | None = None,
) -> Natural:
    """Return the plan over the `chosen` units (all of them when None)."""
    chosen = np.arange(len(units.tasks)) if chosen is None else chosen
    order = Order(units, chosen, (optimization.seed, stage), curriculum)
    return Natural(order, tasks, optimization, epochs)


def shared(
    units: Units,
    tasks: int,
    optimization: Optimization,
    total_steps: int,
    *,
    stage: int = 0,
    curriculum: bool = False,
) -> Shared:
    """Return the plan by shares over all units; a task without units must get a share of 0."""
    orders = [
        Order(units, units.of_tasks([task]), (optimization.seed, stage, task), curriculum)
        for task in range(tasks)
    ]
    return Shared(orders, optimization, total_steps)


def first_shares(wanted: Sequence[float | None], tokens: Floats) -> Floats:
    """Return every task's share of the tokens; those without one divide the rest in proportion to `tokens`.

    Args:
        wanted: [tasks], the share asked for, or None.
        tokens: [tasks], tokens of each task's rows; a task with none takes no part.
    """
    asked = np.asarray([0.0 if share is None else share for share in wanted]) * (tokens > 0)
    free = np.where([share is None for share in wanted], tokens, 0.0)
    rest = max(0.0, 1 - asked.sum()) * free / max(free.sum(), 1.0)
    return np.asarray((asked + rest) / (asked + rest).sum())
