"""Measuring rows: this rank's share of them, batch by batch, and the sums over all ranks that come of it."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from anneal_trainers import packing
from anneal_trainers.batches import batches
from anneal_trainers.dataset import Split
from anneal_trainers.objective import Measured

if TYPE_CHECKING:
    from anneal_trainers.loop import Run

Rows = npt.NDArray[np.int64]
ASKED = 2


class Tally:
    """What ranks add up beside gradients, in one vector: the loss, what is asked for, sums and counts by task."""

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


def measured(
    run: "Run", split: Split, rows: Rows, weights: npt.NDArray[np.float64], phase: str
) -> Iterator[tuple[Measured, npt.NDArray[Any]]]:
    """Yield this rank's batches of `rows`, each measured, with the task of each of its items.

    Args:
        weights: [rows], what an item of each row weighs.
        phase: what heartbeats say is being done.
    """
    data, trainee = run.spec.data, run.trainee
    groups = run.goal.groups(split, rows)
    places = share(split, rows, groups, run.group.rank, run.group.world)
    mine, capacity = rows[places], run.goal.capacity(data.max_length)
    weight = torch.from_numpy(weights[places]).to(trainee.flat.dtype).to(trainee.device)
    together = None if groups is None else groups[places]
    for batch in batches(split, mine, capacity, data.packing == "bestFit", together):
        run.channel.beat(phase, shape=batch.ids.shape)
        part = run.goal.measure(trainee, batch.to(trainee.device), weight)
        yield part, split.tasks[mine[part.rows]]


def share(split: Split, rows: Rows, groups: Rows | None, rank: int, world: int) -> Rows:
    """Return the places among `rows` of what `rank` measures: about as many tokens as any other rank."""
    members = packing.members(np.arange(len(rows)) if groups is None else groups)
    costs = packing.costs(split.lengths[rows], members, packed=True)
    mine = packing.shares(costs, world)[rank]
    return np.concatenate([np.zeros(0, np.int64), *(members[i] for i in mine)])
