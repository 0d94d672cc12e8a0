"""KL and perplexity against values worked out from whole distributions."""

import numpy as np
import pytest

from anneal_serving import divergence
from anneal_serving.divergence import Row, Tally

VOCABULARY = 40


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def row_of(logits: np.ndarray, ids: np.ndarray, learned: np.ndarray, top: int, task: int = 0) -> Row:
    logprobs = np.log(softmax(logits))
    top_ids = np.argsort(-logprobs, 1)[:, :top]
    top_logprobs = np.take_along_axis(logprobs, top_ids, 1)
    tail = np.log(np.maximum(1 - np.exp(top_logprobs).sum(1), 1e-30))
    nll = np.append(-logprobs[np.arange(len(ids) - 1), ids[1:]], 0)
    return Row(task, ids, learned, top_ids, top_logprobs, tail, nll)


@pytest.fixture
def example() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    truth, ids = generator.standard_normal((9, VOCABULARY)) * 2, generator.integers(0, VOCABULARY, 9)
    return (
        truth,
        truth + 0.3 * generator.standard_normal(truth.shape),
        ids,
        (np.arange(9) >= 4).astype(np.uint8),
    )


def test_equal_predictions_have_no_divergence(example: tuple[np.ndarray, ...]) -> None:
    truth, _, ids, learned = example
    tally = divergence.compare(row_of(truth, ids, learned, top=5), [(0, truth)])
    assert tally.kl == pytest.approx(0, abs=1e-9)
    assert tally.increase == pytest.approx(0, abs=1e-9)
    assert tally.agreed == tally.tokens == 5


def test_figures_count_learned_next_tokens_alone(example: tuple[np.ndarray, ...]) -> None:
    truth, engine, ids, learned = example
    tally = divergence.compare(row_of(truth, ids, learned, top=VOCABULARY), [(0, engine)])
    p, q = softmax(truth[3:8]), softmax(engine[3:8])
    assert tally.kl == pytest.approx((p * np.log(p / q)).sum())
    assert tally.engine_nll == pytest.approx(-np.log(q[np.arange(5), ids[4:]]).sum())
    assert tally.reference_nll == pytest.approx(-np.log(p[np.arange(5), ids[4:]]).sum())


def test_a_merged_tail_is_a_lower_bound(example: tuple[np.ndarray, ...]) -> None:
    truth, engine, ids, learned = example
    figures = [divergence.compare(row_of(truth, ids, learned, top=k), [(0, engine)]).kl for k in (5, 20, 40)]
    assert 0 < figures[0] < figures[1] < figures[2]


def test_chunks_add_up_to_the_whole(example: tuple[np.ndarray, ...]) -> None:
    truth, engine, ids, learned = example
    row = row_of(truth, ids, learned, top=8)
    parts = divergence.compare(row, [(0, engine[:5]), (5, engine[5:])])
    whole = divergence.compare(row, [(0, engine)])
    assert parts.kl == pytest.approx(whole.kl)
    assert parts.tokens == whole.tokens


def test_tasks_are_summed_apart() -> None:
    sums = divergence.by_task([(0, Tally(1, 0.5)), (1, Tally(2, 1.0)), (0, Tally(3, 0.25))])
    assert (sums[0].tokens, sums[0].kl, sums[1].tokens) == (4, 0.75, 2)


def test_rows_are_spread_over_tasks_within_the_limit(example: tuple[np.ndarray, ...]) -> None:
    truth, _, ids, learned = example
    rows = [row_of(truth, ids, learned, 5, task=task) for task in (0, 0, 0, 0, 1, 1)]
    assert [row.task for row in divergence.spread(rows, 27)] == [0, 1, 0]
    assert [row.task for row in divergence.spread(rows, 1)] == [0, 1]
    assert len(divergence.spread(rows, 1000)) == 6
