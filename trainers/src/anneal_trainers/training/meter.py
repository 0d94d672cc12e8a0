"""Measuring rows: this rank's share of them, batch by batch, and the sums over all ranks that come of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from anneal_api.finetunejob import Data
from anneal_trainers.base.model import Trainee
from anneal_trainers.data import packing
from anneal_trainers.data.batches import arrange, make_batch
from anneal_trainers.data.dataset import Split
from anneal_trainers.pod.channel import Channel
from anneal_trainers.pod.group import Group
from anneal_trainers.training.objective import Measured, Objective
from anneal_trainers.training.tally import Tally

Rows = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]
TURN_TOKENS = 16_384
"""Tokens of a rank between two moments at which all may stop measuring: seconds, also on a slow machine."""


class Interrupted(Exception):
    """A rank was told to stop; all of them have stopped measuring at the same place."""


@dataclass(frozen=True)
class Meter:
    """Measures rows of `tasks` tasks by an objective.

    in_step: all ranks must pass as often through the model.
    stopping: says whether this rank was told to stop.
    """

    goal: Objective
    trainee: Trainee
    data: Data
    tasks: int
    group: Group
    channel: Channel
    in_step: bool = False
    stopping: Callable[[], bool] = lambda: False

    def parts(
        self, split: Split, rows: Rows, weights: Weights, phase: str
    ) -> Iterator[tuple[Measured, npt.NDArray[Any]]]:
        """Yield this rank's batches of `rows`, each measured, with the task of each of its items.

        Args:
            weights: [rows], what an item of each row weighs.
            phase: what heartbeats say is being done.
        """
        weight = self._on_device(weights)
        for places, counts in self._layout(split, rows):
            yield self._part(split, rows, weight, places, counts, phase)

    def total(self, split: Split, rows: Rows, weights: Weights) -> Tally:
        """Return what `rows` come to over all ranks, without a gradient.

        Raises:
            Interrupted: a rank was told to stop meanwhile.
        """
        tally, weight = Tally(self.tasks, self.trainee.device), self._on_device(weights)
        layout = self._layout(split, rows)
        turns = 1 + int(split.lengths[rows].sum()) // (TURN_TOKENS * self.group.world)  # alike on all ranks
        self.trainee.model.eval()
        with torch.no_grad():
            for turn in np.array_split(np.arange(len(layout)), turns):
                for place in turn:
                    tally.add(*self._part(split, rows, weight, *layout[int(place)], "validate"))
                self._agree_to_go_on()
        self.group.sum(tally.numbers)
        return tally

    def _agree_to_go_on(self) -> None:
        self.channel.beat("reduce")
        stops = torch.tensor([float(self.stopping())], device=self.trainee.device)
        self.group.sum(stops)
        if stops.item():
            raise Interrupted

    def _on_device(self, weights: Weights) -> torch.Tensor:
        return torch.from_numpy(weights).to(self.trainee.flat.dtype).to(self.trainee.device)

    def _part(
        self, split: Split, rows: Rows, weight: torch.Tensor, places: Rows, counts: bool, phase: str
    ) -> tuple[Measured, npt.NDArray[Any]]:
        batch = make_batch(split, rows, places, self.data.packing == "bestFit")
        self.channel.beat(phase, shape=batch.ids.shape)
        weight = weight if counts else torch.zeros_like(weight)
        part = self.goal.measure(self.trainee, batch.to(self.trainee.device), weight)
        if counts:
            return part, split.tasks[rows[part.rows]]
        return replace(part, values=part.values[:0], rows=part.rows[:0]), split.tasks[:0]

    def _layout(self, split: Split, rows: Rows) -> list[tuple[Rows, bool]]:
        """Return this rank's batches, and with False those of others to pass through the model, too, for nothing."""
        packed = self.data.packing == "bestFit"
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
        return [*((places, True) for places in ours), *((places, False) for places in longest[len(ours) :])]


def share(split: Split, rows: Rows, groups: Rows | None, rank: int, world: int) -> Rows:
    """Return the places among `rows` of what `rank` measures: about as many tokens as any other rank."""
    members = packing.members(np.arange(len(rows)) if groups is None else groups)
    costs = packing.costs(split.lengths[rows], members, packed=True)
    mine = packing.shares(costs, world)[rank]
    return np.concatenate([np.zeros(0, np.int64), *(members[i] for i in mine)])
