"""Loss and gradient of a step depend on its set of rows alone; the chunked cross entropy on nothing but its formula."""

import itertools

import numpy as np
import pytest
import torch

from anneal_trainers.data import packing
from anneal_trainers.training import losses

BALANCES = ["tokenMean", "rowMean", "taskMean", "taskRowMean"]
TASKS = np.asarray([0, 0, 0, 1, 1, 3, 3, 0, 1, 3])
TARGETS = np.asarray([3, 9, 1, 4, 12, 7, 2, 5, 6, 8])
UNITS = np.asarray([0, 1, 1, 2, 2, 3, 3, 4, 5, 6])
"""Rows 1 and 2, 3 and 4, 5 and 6 are pieces of one source row each."""
WEIGHTS = np.asarray([1.0, 2.5, 9.0, 0.5])
HIDDEN, VOCABULARY = 8, 40


def rows_data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(n, HIDDEN, dtype=torch.float64, generator=generator),
            torch.randint(VOCABULARY, (n,), generator=generator),
        )
        for n in TARGETS
    ]


HEAD = torch.randn(VOCABULARY, HIDDEN, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def step(balance: str, matrix: torch.Tensor, micro_batches: list[list[int]]) -> float:
    """Accumulate the loss and the gradient of `matrix` over micro-batches."""
    data = rows_data()
    weights = losses.row_weights(balance, TASKS, TARGETS, UNITS, WEIGHTS)
    total = 0.0
    for rows in micro_batches:
        hidden = torch.cat([data[r][0] for r in rows]) @ matrix
        token_weights = torch.from_numpy(np.repeat(weights[rows], TARGETS[rows]))
        targets = torch.cat([data[r][1] for r in rows])
        loss, _ = losses.weighted_cross_entropy(hidden, HEAD, targets, token_weights)
        loss.backward()
        total += float(loss.detach())
    return total


def fresh() -> torch.Tensor:
    return torch.eye(HIDDEN, dtype=torch.float64).requires_grad_(True)


def formula(balance: str) -> float:
    """The definitions, case by case, from the nll of each source row."""
    pieces = [
        torch.nn.functional.cross_entropy(h @ HEAD.T, t, reduction="none").numpy() for h, t in rows_data()
    ]
    numbers = np.unique(UNITS)
    nll = [np.concatenate([pieces[i] for i in np.flatnonzero(unit == UNITS)]) for unit in numbers]
    task = [TASKS[np.flatnonzero(unit == UNITS)[0]] for unit in numbers]
    by_task = {k: [row for row, of in zip(nll, task, strict=True) if of == k] for k in set(task)}
    if balance == "tokenMean":
        top = sum(WEIGHTS[k] * np.concatenate(rows).sum() for k, rows in by_task.items())
        return float(top / sum(WEIGHTS[k] * len(np.concatenate(rows)) for k, rows in by_task.items()))
    if balance == "rowMean":
        top = sum(WEIGHTS[k] * sum(row.mean() for row in rows) for k, rows in by_task.items())
        return float(top / sum(WEIGHTS[k] * len(rows) for k, rows in by_task.items()))
    inner = {
        "taskMean": lambda rows: np.concatenate(rows).mean(),
        "taskRowMean": lambda rows: np.mean([row.mean() for row in rows]),
    }[balance]
    total = sum(WEIGHTS[k] * inner(rows) for k, rows in by_task.items())
    return float(total / sum(WEIGHTS[k] for k in by_task))


@pytest.mark.parametrize("balance", BALANCES)
def test_the_weighted_sum_is_the_definition(balance: str) -> None:
    assert step(balance, fresh(), [list(range(10))]) == pytest.approx(formula(balance), abs=1e-12)


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("capacity", [12, 17, 57])
def test_no_partition_changes_loss_or_gradient(balance: str, world: int, capacity: int) -> None:
    whole, parted = fresh(), fresh()
    expected = step(balance, whole, [list(range(10))])
    shares = packing.shares(TARGETS.tolist(), world)
    packs = [
        [s[i] for i in p] for s in shares for p in packing.best_fit_decreasing(TARGETS[s].tolist(), capacity)
    ]
    assert step(balance, parted, packs) == pytest.approx(expected, abs=1e-10)
    assert whole.grad is not None
    assert torch.allclose(whole.grad, parted.grad, atol=1e-10, rtol=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("balance", BALANCES)
def test_the_order_of_rows_changes_nothing(balance: str) -> None:
    forward, backward = fresh(), fresh()
    first = step(balance, forward, [[i] for i in range(10)])
    assert step(balance, backward, [[i] for i in reversed(range(10))]) == pytest.approx(first, abs=1e-10)


def test_a_task_without_rows_in_the_step_takes_no_share() -> None:
    weights = losses.row_weights("taskMean", TASKS, TARGETS, UNITS, WEIGHTS)
    assert (weights * TARGETS).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 600])
def test_chunks_give_the_formulas_loss_and_gradient(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    hidden = torch.randn(count, HIDDEN, dtype=torch.float64, generator=generator).requires_grad_(True)
    plain = hidden.detach().clone().requires_grad_(True)
    targets = torch.randint(VOCABULARY, (count,), generator=generator)
    weights = torch.rand(count, dtype=torch.float64, generator=generator)
    loss, nll = losses.weighted_cross_entropy(hidden, HEAD, targets, weights)
    expected = torch.nn.functional.cross_entropy(plain @ HEAD.T, targets, reduction="none")
    (3 * loss).backward()
    (3 * (expected * weights).sum()).backward()
    assert torch.allclose(nll, expected.detach(), atol=1e-12)
    assert torch.allclose(hidden.grad, plain.grad, atol=1e-12)  # type: ignore[arg-type]


def test_trained_rows_of_the_head_get_the_formulas_gradient() -> None:
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(300, HIDDEN, dtype=torch.float64, generator=generator)
    targets = torch.randint(VOCABULARY, (300,), generator=generator)
    weights = torch.rand(300, dtype=torch.float64, generator=generator)
    ids = torch.tensor([3, 39])
    rows = HEAD[ids].clone().requires_grad_(True)
    loss, _ = losses.weighted_cross_entropy(hidden, HEAD, targets, weights, ids, rows)
    (2 * loss).backward()
    whole = HEAD.clone().requires_grad_(True)
    nll = torch.nn.functional.cross_entropy(hidden @ whole.T, targets, reduction="none")
    (2 * (nll * weights).sum()).backward()
    assert whole.grad is not None
    assert torch.allclose(rows.grad, whole.grad[ids], atol=1e-12)  # type: ignore[arg-type]


def test_no_more_than_a_chunk_of_logits_is_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    plain = torch.Tensor.logsumexp
    monkeypatch.setattr(
        torch.Tensor, "logsumexp", lambda t, *a, **k: seen.append(t.shape[0]) or plain(t, *a, **k)
    )
    losses.weighted_cross_entropy(
        torch.randn(1000, HIDDEN), HEAD.float(), torch.zeros(1000, dtype=torch.long), torch.ones(1000)
    )
    assert max(seen) == losses.CHUNK
    assert sum(itertools.chain(seen)) == 1000


def test_without_gradients_none_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_chunk_gradient", lambda *_: pytest.fail("a gradient was made"))
    hidden, rows = torch.randn(3, HIDDEN).requires_grad_(True), HEAD[:1].float().requires_grad_(True)
    targets = torch.zeros(3, dtype=torch.long)
    with torch.no_grad():
        losses.weighted_cross_entropy(hidden, HEAD.float(), targets, torch.ones(3), targets[:1], rows)
