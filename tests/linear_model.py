"""The smallest trainee there is: states are embeddings times one matrix. In float64, so that sums can be compared."""

import numpy as np
import torch

from anneal_trainers.base.model import Trainee
from anneal_trainers.data.batches import Batch
from anneal_trainers.data.dataset import Split

VOCABULARY, HIDDEN = 40, 4


class Linear(Trainee):
    """States of a token depend on it alone."""

    def states(self, batch: Batch) -> torch.Tensor:
        """Return [batch * positions, HIDDEN]."""
        return self.model(embeddings()[batch.ids].reshape(-1, HIDDEN))

    @property
    def head(self) -> torch.Tensor:
        """[VOCABULARY, HIDDEN]."""
        return matrix(VOCABULARY, HIDDEN, seed=2)


def linear(seed: int = 1) -> Linear:
    """Return a trainee with seeded weights."""
    model = torch.nn.Linear(HIDDEN, HIDDEN, bias=False, dtype=torch.float64)
    flat = matrix(HIDDEN, HIDDEN, seed).reshape(-1).clone()
    trainee = Linear(model, ["weight"], flat, torch.zeros_like(flat))
    trainee.use(flat)
    model.weight.grad = trainee.gradient.view(HIDDEN, HIDDEN)
    return trainee


def embeddings() -> torch.Tensor:
    """Return [VOCABULARY, HIDDEN]."""
    return matrix(VOCABULARY, HIDDEN, seed=3)


def matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Return seeded numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator)


def make_split(lengths: list[int], tasks: list[int], units: list[int] | None = None, seed: int = 0) -> Split:
    """Return rows of random tokens, of which the second half is learned; `units` are where units begin and end."""
    generator = np.random.default_rng(seed)
    learned = np.concatenate([np.arange(n) >= max(1, n // 2) for n in lengths]).astype(np.uint8)
    bounds = np.asarray(range(len(lengths) + 1) if units is None else units, np.int64)
    return Split(
        tokens=generator.integers(0, VOCABULARY, sum(lengths)).astype(np.uint16),
        learned=learned,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        tasks=np.asarray(tasks, np.int32),
        digests=generator.integers(0, 256, (len(lengths), 32)).astype(np.uint8),
        units=bounds,
        difficulty=generator.random(len(bounds) - 1).astype(np.float32),
    )
