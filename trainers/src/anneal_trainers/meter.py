"""Measuring rows: this rank's share of them, batch by batch, and the sums over all ranks that come of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from anneal_api.finetunejob import Data
from anneal_trainers import packing
from anneal_trainers.batches import arrange, make_batch
from anneal_trainers.channel import Channel
from anneal_trainers.dataset import Split
from anneal_trainers.group import Group
from anneal_trainers.model import Trainee
from anneal_trainers.objective import Measured, Objective
from anneal_trainers.tally import Tally

Rows = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Meter:
    """Measures rows of `tasks` tasks by an objective; `in_step`: all ranks must pass as often through the model."""

    goal: Objective
    trainee: Trainee
    data: Data
    tasks: int
    group: Group
    channel: Channel
    in_step: bool = False

    def parts(
        self, split: Split, rows: Rows, weights: Weights, phase: str
    ) -> Iterator[tuple[Measured, npt.NDArray[Any]]]:
        """Yield this rank's batches of `rows`, each measured, with the task of each of its items.

        Args:
            weights: [rows], what an item of each row weighs.
            phase: what heartbeats say is being done.
        """
        packed = self.data.packing == "bestFit"
        weight = torch.from_numpy(weights).to(self.trainee.flat.dtype).to(self.trainee.device)
        ours, others = self._layout(split, rows, packed)
        for places in ours:
            part = self._measure(make_batch(split, rows, places, packed), weight, phase)
            yield part, split.tasks[rows[part.rows]]
        for places in others:
            part = self._measure(make_batch(split, rows, places, packed), torch.zeros_like(weight), phase)
            yield replace(part, values=part.values[:0], rows=part.rows[:0]), split.tasks[:0]

    def total(self, split: Split, rows: Rows, weights: Weights) -> Tally:
        """Return what `rows` come to over all ranks, without a gradient."""
        tally = Tally(self.tasks, self.trainee.device)
        self.trainee.model.eval()
        with torch.no_grad():
            for part, tasks in self.parts(split, rows, weights, "validate"):
                tally.add(part, tasks)
        self.group.sum(tally.numbers)
        return tally

    def _measure(self, batch: Any, weight: torch.Tensor, phase: str) -> Measured:
        self.channel.beat(phase, shape=batch.ids.shape)
        return self.goal.measure(self.trainee, batch.to(self.trainee.device), weight)

    def _layout(self, split: Split, rows: Rows, packed: bool) -> tuple[list[Rows], list[Rows]]:
        """Return this rank's batches, and those of others to pass through the model, too, for nothing."""
        groups = self.goal.groups(split, rows)
        capacity = self.goal.capacity(self.data.max_length)
        ranks = range(self.group.world) if self.in_step else [self.group.rank]
        shares = {rank: share(split, rows, groups, rank, self.group.world) for rank in ranks}
        batches = {
            rank: [
                mine[part]
                for part in arrange(
                    split, rows[mine], capacity, packed, None if groups is None else groups[mine]
                )
            ]
            for rank, mine in shares.items()
        }
        ours, longest = batches[self.group.rank], max(batches.values(), key=len)
        return ours, longest[len(ours) :]


def share(split: Split, rows: Rows, groups: Rows | None, rank: int, world: int) -> Rows:
    """Return the places among `rows` of what `rank` measures: about as many tokens as any other rank."""
    members = packing.members(np.arange(len(rows)) if groups is None else groups)
    costs = packing.costs(split.lengths[rows], members, packed=True)
    mine = packing.shares(costs, world)[rank]
    return np.concatenate([np.zeros(0, np.int64), *(members[i] for i in mine)])
