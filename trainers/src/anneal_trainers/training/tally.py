"""What ranks add up beside gradients."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from anneal_trainers.training.objective import Measured

ASKED = 2


class Tally:
    """One vector: the weighted loss, what ranks ask for, sums and counts of items by task."""

    def __init__(self, tasks: int, device: torch.device) -> None:
        self._tasks = tasks
        self.numbers = torch.zeros(1 + ASKED + 2 * tasks, dtype=torch.float64, device=device)

    def add(self, part: Measured, tasks: npt.NDArray[Any]) -> None:
        """Add a batch, with the task of each of its items."""
        index = torch.from_numpy(tasks.astype(np.int64)).to(self.numbers.device)
        self.numbers[0] += part.loss.detach()
        sums, counts = self.numbers[1 + ASKED :].view(2, self._tasks)
        sums.index_add_(0, index, part.values.double())
        counts.index_add_(0, index, torch.ones_like(index, dtype=torch.float64))

    def ask(self, *, stop: bool, save: bool) -> None:
        """Say what this rank wants of all."""
        self.numbers[1:3] = torch.tensor([stop, save])

    @property
    def loss(self) -> float:
        """The weighted loss."""
        return float(self.numbers[0])

    @property
    def asked(self) -> tuple[float, float]:
        """How many ranks want to stop, and to save."""
        return float(self.numbers[1]), float(self.numbers[2])

    def means(self) -> list[float]:
        """Return the mean value of an item of each task, [tasks]; NaN for a task without any."""
        sums, counts = self.numbers[1 + ASKED :].view(2, self._tasks).cpu()
        return [float(s / n) if n else math.nan for s, n in zip(sums, counts, strict=True)]

    def task_losses(self, names: Sequence[str]) -> dict[str, float]:
        """Return the same by name, without tasks that have no item."""
        counts = self.numbers[1 + ASKED + self._tasks :].cpu()
        return {n: v for n, v, c in zip(names, self.means(), counts, strict=True) if c}
