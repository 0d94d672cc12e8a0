"""Which rows make which optimizer step. Knows no world size: ranks take their share when the step runs.

Each pass is a permutation seeded by (seed, pass); consecutive rows of it form steps, so every row is
in exactly one step of a pass, whatever the number of workers. A step is addressed by its number alone,
which is all a checkpoint has to remember.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anneal_api.finetunejob import Optimization

Rows = npt.NDArray[np.int64]
DEFAULT_ROWS = 32


@dataclass(frozen=True)
class Pass:
    """One pass over the rows: their order, and where steps begin (one more entry than steps)."""

    order: Rows
    bounds: list[int]

    @property
    def steps(self) -> int:
        """Optimizer steps of the pass."""
        return len(self.bounds) - 1


class Plan:
    """The steps of a run over rows of given lengths."""

    def __init__(self, lengths: npt.NDArray[Any], optimization: Optimization) -> None:
        self._lengths = np.asarray(lengths, np.int64)
        self._seed = optimization.seed
        self._tokens = optimization.global_batch_tokens
        self._rows = optimization.global_batch_rows or DEFAULT_ROWS
        self._first: list[int] = [0]
        self._cached: tuple[int, Pass] | None = None
        self.total_steps = optimization.max_steps or self._steps_of(optimization.epochs or 1.0)

    def rows(self, step: int) -> Rows:
        """Return the indices of the rows of `step`, counted from 0."""
        number = 0
        while True:
            if len(self._first) <= number + 1:
                self._first.append(self._first[number] + self.make_pass(number).steps)
            if step < self._first[number + 1]:
                break
            number += 1
        chosen, inside = self.make_pass(number), step - self._first[number]
        return chosen.order[chosen.bounds[inside] : chosen.bounds[inside + 1]]

    def make_pass(self, number: int) -> Pass:
        """Return pass `number`, counted from 0."""
        if self._cached is None or self._cached[0] != number:
            order = np.random.default_rng([self._seed, number]).permutation(len(self._lengths))
            self._cached = (number, Pass(order, self._bounds(self._lengths[order])))
        return self._cached[1]

    def _bounds(self, lengths: Rows) -> list[int]:
        if self._tokens is None:
            return [*range(0, len(lengths), self._rows), len(lengths)]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        bounds = [0]
        while bounds[-1] < len(lengths):
            limit = ends[bounds[-1]] + self._tokens
            following = int(np.searchsorted(ends, limit, side="right")) - 1
            bounds.append(max(following, bounds[-1] + 1))
        return bounds

    def _steps_of(self, epochs: float) -> int:
        whole, part = int(epochs), epochs - int(epochs)
        full = sum(self.make_pass(number).steps for number in range(whole))
        return full + (math.ceil(part * self.make_pass(whole).steps) if part > 0 else 0)
