"""Ranks in threads of one process that add up their tensors as a group of processes does, and are told to stop."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from anneal_trainers.pod.group import Group
from anneal_trainers.training.run import Run


class Meeting:
    """Where `world` ranks meet to add up."""

    def __init__(self, world: int = 2) -> None:
        self._world = world
        self._barrier = threading.Barrier(world, timeout=20)
        self._parts: dict[int, torch.Tensor] = {}

    def rank(self, number: int) -> Group:
        """Return one of the ranks."""
        meeting = self

        class Thread(Group):
            def sum(self, tensor: torch.Tensor) -> None:
                tensor.copy_(meeting.add(self.rank, tensor))

        return Thread(number, self._world)

    def add(self, rank: int, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of what all ranks bring, the same on each of them."""
        self._parts[rank] = tensor.clone()
        self._barrier.wait()
        total = sum(self._parts[number] for number in range(1, self._world)) + self._parts[0]
        self._barrier.wait()
        return total


def stop_in(run: Run, step: int) -> None:
    """Tell a rank to stop, as SIGTERM does, once it has begun `step`."""
    beat = run.channel.beat

    def heard(phase: str, **where: Any) -> None:
        run.stop.asked = run.stop.asked or where.get("step") == step
        beat(phase, **where)

    run.channel.beat = heard  # type: ignore[method-assign]


def together(work: Callable[[int], Any], world: int = 2) -> list[Any]:
    """Return what `work` returns or raises for each rank, all run at the same time."""

    def caught(rank: int) -> Any:
        try:
            return work(rank)
        except Exception as error:
            return error

    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(caught, range(world)))
