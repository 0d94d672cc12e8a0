"""Task-balanced losses as one weighted sum: loss = sum over targets t of w_t * nll_t.

The weights are computed over all rows of an optimizer step, so loss and gradient depend on that set of
rows alone: not on the number of ranks, micro-batches, packing or order. A unit i is a source row, in one
piece or several, with N_i targets in all its pieces; B_k are the step's units of task k and w_k its weight.
A task without a unit in the step does not count, and neither does its weight.

tokenMean    w_k / sum_i w_k(i) N_i                     a token of task k counts w_k times
rowMean      w_k / (N_i * sum_i w_k(i))                 a row of task k counts w_k times
taskMean     w_k / (sum_k w_k * sum over B_k of N_i)
taskRowMean  w_k / (sum_k w_k * |B_k| * N_i)

With all w_k alike these are case1 to case4 of MFTCoder (arXiv 2311.02303). coba is taskMean with weights
that move; lossDrop is tokenMean over rows drawn by shares that move.
"""

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
CHUNK = 256
"""Targets whose logits exist at one time: 256 x 49,152 floats are 50 MB."""
BY_TASK = ("taskMean", "taskRowMean", "coba")
BY_ROW = ("rowMean", "taskRowMean")


def item_weights(balance: str, tasks: npt.NDArray[Any], amounts: Floats, task_weights: Floats) -> Floats:
    """Return what one of the `amounts` of each item weighs, so that all weights times amounts add up to 1.

    Args:
        balance: whether the sum is divided by task first (BY_TASK) or is over all items.
        tasks: [items], task index of each.
        amounts: [items], how much each counts: its targets, or 1.
        task_weights: [tasks], w_k.
    """
    weights = np.asarray(task_weights, np.float64)
    if balance not in BY_TASK:
        return cast(Floats, weights[tasks] / (weights[tasks] * amounts).sum())
    totals = np.bincount(tasks, amounts, minlength=len(weights))
    return cast(Floats, weights[tasks] / totals[tasks] / weights[totals > 0].sum())


def row_weights(
    balance: str, tasks: npt.NDArray[Any], targets: npt.NDArray[Any], units: Ints, task_weights: Floats
) -> Floats:
    """Return the weight of each target of each row of a step, [rows].

    Args:
        tasks: [rows], task index of each.
        targets: [rows], learned tokens of each, none of them 0.
        units: [rows], which unit each is of; all rows of a unit are in the step.
        task_weights: [tasks], w_k.
    """
    counts = np.asarray(targets, np.float64)
    if balance not in BY_ROW:
        return item_weights(balance, tasks, counts, task_weights)
    _, first, unit = np.unique(units, return_index=True, return_inverse=True)
    ones = np.ones(len(first))
    return cast(
        Floats,
        item_weights(balance, tasks[first], ones, task_weights)[unit] / np.bincount(unit, counts)[unit],
    )


class _WeightedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        ids: torch.Tensor | None,
        rows: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        row_gradient = torch.zeros_like(rows) if rows is not None and ctx.needs_input_grad[5] else None
        nll = torch.empty(len(targets), dtype=weights.dtype, device=hidden.device)
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            logits = (hidden[part] @ head.T).to(weights.dtype)
            norm = logits.logsumexp(-1, keepdim=True)
            nll[part] = (norm - logits.gather(-1, targets[part, None])).squeeze(-1)
            if gradient is None and row_gradient is None:
                continue
            by_logit = _chunk_gradient(logits, norm, targets[part], weights[part]).to(hidden.dtype)
            if gradient is not None:
                torch.mm(by_logit, head, out=gradient[part])
            if row_gradient is not None:
                row_gradient += (by_logit[:, ids].T @ hidden[part]).to(row_gradient.dtype)
        ctx.gradients = gradient, row_gradient
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        by_hidden, by_rows = (None if g is None else g * outputs[0].to(g.dtype) for g in ctx.gradients)
        return by_hidden, None, None, None, None, by_rows


def _chunk_gradient(
    logits: torch.Tensor, norm: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    probabilities = logits.sub_(norm).exp_()
    probabilities.scatter_add_(-1, targets[:, None], torch.full_like(norm, -1))
    return probabilities.mul_(weights[:, None])


def weighted_cross_entropy(
    hidden: torch.Tensor,
    head: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    ids: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sum(w * nll) and the nll of every target.

    Gradients are made chunk by chunk in the forward pass, so the logits of no more than CHUNK targets
    exist at a time; the head is frozen and gets none, save for the rows of tokens that are trained.

    Args:
        hidden: [targets, hidden size], states at the positions before the targets.
        head: [vocabulary, hidden size].
        targets: [targets] ids.
        weights: [targets], float32 or float64; logits are reduced in this type.
        ids: [added], tokens whose rows of the head are trained, if there are any.
        rows: [added, hidden size], what `head` holds at `ids`: where their gradient goes.
    """
    if not torch.is_grad_enabled():
        # A function of one's own is not told, and would make gradients that nobody takes.
        hidden, rows = hidden.detach(), None
    loss, nll = cast(
        tuple[torch.Tensor, torch.Tensor],
        _WeightedCrossEntropy.apply(hidden, head.to(hidden.dtype), targets, weights, ids, rows),  # type: ignore[no-untyped-call]
    )
    return loss, nll
