"""What a step minimises, as a weighted sum over tokens: supervised cross entropy, or preference (DPO).

An objective weighs the rows of a whole step at once (so nothing depends on how they are parted), and measures
one batch: the differentiable part of the loss, and the plain value of every item it is a mean over (targets, or
pairs), from which losses by task are made.

DPO (arXiv 2305.18290) is a weighted cross entropy, too: by the chain rule a target of the chosen answer weighs
-dL/dm and one of the rejected +dL/dm, with m the difference of both answers' log-probabilities. So it shares
the chunked cross entropy, at the price of one more pass over the head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from anneal_api.finetunejob import Optimization
from anneal_trainers.base.model import Trainee
from anneal_trainers.data.batches import Batch
from anneal_trainers.data.dataset import Split
from anneal_trainers.training import dpo
from anneal_trainers.training.losses import Floats, item_weights, row_weights, weighted_cross_entropy

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Measured:
    """One batch: its part of the loss, and [items] plain values with the row (by its place) each is of."""

    loss: torch.Tensor
    values: torch.Tensor
    rows: Rows


class Objective(Protocol):
    """What a step minimises."""

    def groups(self, split: Split, rows: Rows) -> Rows | None:
        """Return which of `rows` must stay in one batch, as a number for each; None when any may part."""

    def capacity(self, max_length: int) -> int:
        """Return the positions a batch needs at least, so that what must stay together fits."""

    def weights(self, split: Split, rows: Rows, balance: str, task_weights: Floats) -> Floats:
        """Return what an item of each of a step's `rows` weighs, [rows]."""

    def measure(self, trainee: Trainee, batch: Batch, weights: torch.Tensor) -> Measured:
        """Return the loss of a batch, given the weight of each of the step's rows."""


class Supervised:
    """Cross entropy of the learned tokens."""

    def groups(self, split: Split, rows: Rows) -> None:
        """Any row may be in any batch: weights are made for the whole step."""

    def capacity(self, max_length: int) -> int:
        """A batch has the positions of the longest row."""
        return max_length

    def weights(self, split: Split, rows: Rows, balance: str, task_weights: Floats) -> Floats:
        """Return the weight of each target of each row, [rows]."""
        return row_weights(balance, split.tasks[rows], split.targets[rows], split.unit_of[rows], task_weights)

    def measure(self, trainee: Trainee, batch: Batch, weights: torch.Tensor) -> Measured:
        """Return the loss of a batch; its items are the targets."""
        loss, nll = _cross_entropy(trainee, _before(trainee, batch), batch, weights[batch.rows])
        return Measured(loss, nll, batch.rows)


class Preference:
    """Direct preference optimisation; the reference is the adapter a run starts from.

    A fresh adapter adds nothing, so that is the base itself; with initFrom it is the earlier adapter, frozen.
    """

    def __init__(self, beta: float, trainee: Trainee) -> None:
        self._beta = beta
        self._start = trainee.flat.clone()

    def groups(self, split: Split, rows: Rows) -> Rows:
        """A pair is never parted."""
        return split.unit_of[rows]

    def capacity(self, max_length: int) -> int:
        """Both answers of a pair fit."""
        return 2 * max_length

    def weights(self, split: Split, rows: Rows, balance: str, task_weights: Floats) -> Floats:
        """Return the weight of the pair each row is of, [rows]: pairs count alike, whatever their length."""
        chosen = split.tasks[rows[::2]]
        return np.repeat(item_weights(balance, chosen, np.ones(len(chosen)), task_weights), 2)

    def measure(self, trainee: Trainee, batch: Batch, weights: torch.Tensor) -> Measured:
        """Return the loss of a batch; its items are the pairs, each at its chosen row."""
        reference = self._reference(trainee, batch, weights.dtype)
        hidden = _before(trainee, batch)
        with torch.no_grad():
            nll = _nll(trainee, hidden, batch, weights.dtype)
        pairs, place = np.unique(batch.rows // 2, return_inverse=True)
        loss, slope = dpo.pair_losses(
            *_log_probabilities(nll, batch, place, len(pairs)),
            *_log_probabilities(reference, batch, place, len(pairs)),
            self._beta,
        )
        weight = weights[2 * pairs]
        value = (loss * weight).sum()
        if not torch.is_grad_enabled():
            return Measured(value, loss, 2 * pairs)
        sign = torch.from_numpy(np.where(batch.rows % 2 == 0, -1.0, 1.0)).to(slope)
        surrogate, _ = _cross_entropy(trainee, hidden, batch, sign * (slope * weight)[place])
        # The value is the loss's, the gradient the surrogate's.
        return Measured(surrogate + (value - surrogate.detach()), loss, 2 * pairs)

    def _reference(self, trainee: Trainee, batch: Batch, dtype: torch.dtype) -> torch.Tensor:
        with torch.no_grad(), _evaluating(trainee.model), _using(trainee, self._start):
            return _nll(trainee, _before(trainee, batch), batch, dtype)


def make(optimization: Optimization, trainee: Trainee) -> Objective:
    """Return the objective of a spec; `trainee` holds what the run starts from."""
    if optimization.objective == "dpo":
        return Preference(optimization.dpo_beta, trainee)
    return Supervised()


def _before(trainee: Trainee, batch: Batch) -> torch.Tensor:
    return trainee.states(batch)[batch.before]


def _cross_entropy(
    trainee: Trainee, hidden: torch.Tensor, batch: Batch, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return weighted_cross_entropy(
        hidden, trainee.head, batch.targets, weights, trainee.head_ids, trainee.head_rows
    )


def _nll(trainee: Trainee, hidden: torch.Tensor, batch: Batch, dtype: torch.dtype) -> torch.Tensor:
    ones = torch.ones(len(batch.targets), dtype=dtype, device=hidden.device)
    return _cross_entropy(trainee, hidden, batch, ones)[1]


def _log_probabilities(
    nll: torch.Tensor, batch: Batch, place: npt.NDArray[Any], pairs: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of the chosen and of the rejected answer of each pair, [pairs] each."""
    index = torch.from_numpy(2 * place + batch.rows % 2).to(nll.device)
    sums = torch.zeros(2 * pairs, dtype=nll.dtype, device=nll.device).index_add_(0, index, -nll)
    return sums[::2], sums[1::2]


@contextmanager
def _using(trainee: Trainee, flat: torch.Tensor) -> Iterator[None]:
    trainee.use(flat)
    try:
        yield
    finally:
        trainee.use(trainee.flat)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
