"""Rows as tensors: a pack is rows one after another behind a document mask, a padded batch is rectangular."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from anneal_trainers.data import packing
from anneal_trainers.data.dataset import Split

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """What the model gets and what it is asked: shapes [batch, positions], and [targets] for the rest.

    `positions` restart at 0 with every document. `bounds` are where the documents of a pack begin, and the end
    of the last; None where each row is one document, which may be padded on the right. `before` indexes the flattened
    states from which `targets` are predicted; `rows` says which of the rows the batch was made from (by its
    place among them, not in the split) each target belongs to.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    bounds: tuple[int, ...] | None
    before: torch.Tensor
    targets: torch.Tensor
    rows: Rows

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`."""
        return Batch(
            self.ids.to(device),
            self.positions.to(device),
            self.bounds,
            self.before.to(device),
            self.targets.to(device),
            self.rows,
        )


def batches(split: Split, rows: Rows, capacity: int, packed: bool, groups: Rows | None = None) -> list[Batch]:
    """Return all of `rows` as batches of at most `capacity` positions; arguments as those of `arrange`."""
    parts = arrange(split, rows, capacity, packed, groups)
    return [make_batch(split, rows, places, packed) for places in parts]


def arrange(split: Split, rows: Rows, capacity: int, packed: bool, groups: Rows | None = None) -> list[Rows]:
    """Return which of `rows`, by their places, make each batch of at most `capacity` positions.

    Args:
        groups: [rows]; adjacent rows with the same number stay in one batch. Every row for itself when None.
    """
    members = packing.members(np.arange(len(rows)) if groups is None else groups)
    costs = packing.costs(split.lengths[rows], members, packed)
    parts = packing.best_fit_decreasing(costs, capacity) if packed else packing.padded(costs, capacity)
    return [np.concatenate([members[i] for i in part]) for part in parts]


def make_batch(split: Split, rows: Rows, places: Rows, packed: bool) -> Batch:
    """Return the rows at `places` of `rows` as one batch."""
    return pack(split, rows, places) if packed else pad(split, rows, places)


def pack(split: Split, rows: Rows | Sequence[int], places: Rows | None = None) -> Batch:
    """Return the rows at `places` of `rows` (all when None) in one sequence, [1, sum of lengths], no position wasted."""
    places = np.arange(len(rows)) if places is None else places
    pairs = [split.row(int(rows[place])) for place in places]
    ids = np.concatenate([ids for ids, _ in pairs])
    learned = np.concatenate([learned for _, learned in pairs])
    positions = np.concatenate([np.arange(len(ids)) for ids, _ in pairs])
    owners = np.repeat(places, [len(ids) for ids, _ in pairs])
    where = np.flatnonzero(learned)
    return Batch(
        torch.from_numpy(ids)[None],
        torch.from_numpy(positions)[None],
        tuple(np.cumsum([0, *(len(ids) for ids, _ in pairs)]).tolist()),
        torch.from_numpy(where - 1),
        torch.from_numpy(ids[where]),
        owners[where],
    )


def pad(split: Split, rows: Rows | Sequence[int], places: Rows | None = None) -> Batch:
    """Return the rows at `places` of `rows` side by side, padded on the right to the longest, [places, longest]."""
    places = np.arange(len(rows)) if places is None else places
    pairs = [split.row(int(rows[place])) for place in places]
    longest = max(len(ids) for ids, _ in pairs)
    ids = np.zeros((len(pairs), longest), np.int64)
    learned = np.zeros((len(pairs), longest), bool)
    for place, (row_ids, row_learned) in enumerate(pairs):
        ids[place, : len(row_ids)] = row_ids
        learned[place, : len(row_ids)] = row_learned
    where = np.flatnonzero(learned)
    return Batch(
        torch.from_numpy(ids),
        torch.arange(longest).expand(len(pairs), -1),
        None,
        torch.from_numpy(where - 1),
        torch.from_numpy(ids.reshape(-1)[where]),
        places[where // longest],
    )
