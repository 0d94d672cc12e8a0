"""Task-balanced losses as one weighted sum: loss = sum over targets t of w_t * nll_t.

The weights are computed over all rows of an optimizer step, so loss and gradient depend on that set of
rows alone: not on the number of ranks, micro-batches, packing or order. With N_i the targets of row i,
B_k the step's rows of task k and w_k its weight (tasks without a row in the step do not count):

tokenMean    1 / sum_i N_i
rowMean      1 / (rows * N_i)
taskMean     w_k / (sum_k w_k * sum over B_k of N_i)
taskRowMean  w_k / (sum_k w_k * |B_k| * N_i)
"""

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]
CHUNK = 256
"""Targets whose logits exist at one time: 256 x 49,152 floats are 50 MB."""


def row_weights(
    balance: str, tasks: npt.NDArray[Any], targets: npt.NDArray[Any], task_weights: Floats
) -> Floats:
    """Return the weight of each target of each row of a step, [rows].

    Args:
        tasks: task index of each row.
        targets: learned tokens of each row, none of them 0.
        task_weights: w_k of every task.
    """
    counts = np.asarray(targets, np.float64)
    if balance == "tokenMean":
        return np.full(len(counts), 1 / counts.sum())
    if balance == "rowMean":
        return 1 / (len(counts) * counts)
    weights = task_weights / task_weights[np.unique(tasks)].sum()
    if balance == "taskMean":
        totals = np.bincount(tasks, counts, minlength=len(weights))
        return cast(Floats, weights[tasks] / totals[tasks])
    if balance == "taskRowMean":
        rows = np.bincount(tasks, minlength=len(weights))
        return cast(Floats, weights[tasks] / (rows[tasks] * counts))
    raise ValueError(f"unknown task balance {balance}")


class _WeightedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        nll = torch.empty(len(targets), dtype=weights.dtype, device=hidden.device)
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            logits = (hidden[part] @ head.T).to(weights.dtype)
            norm = logits.logsumexp(-1, keepdim=True)
            nll[part] = (norm - logits.gather(-1, targets[part, None])).squeeze(-1)
            if gradient is not None:
                gradient[part] = _chunk_gradient(logits, norm, targets[part], weights[part]) @ head
        ctx.gradient = gradient
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return ctx.gradient * outputs[0], None, None, None


def _chunk_gradient(
    logits: torch.Tensor, norm: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    probabilities = logits.sub_(norm).exp_()
    probabilities.scatter_add_(-1, targets[:, None], torch.full_like(norm, -1))
    return probabilities.mul_(weights[:, None])


def weighted_cross_entropy(
    hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sum(w * nll) and the nll of every target.

    The gradient with respect to `hidden` is made chunk by chunk in the forward pass, so no logits are
    kept; the head is frozen and gets none.

    Args:
        hidden: [targets, hidden size], states at the positions before the targets.
        head: [vocabulary, hidden size].
        targets: [targets] ids.
        weights: [targets], float32 or float64; logits are reduced in this type.
    """
    loss, nll = cast(
        tuple[torch.Tensor, torch.Tensor],
        _WeightedCrossEntropy.apply(hidden, head.to(hidden.dtype), targets, weights),  # type: ignore[no-untyped-call]
    )
    return loss, nll
