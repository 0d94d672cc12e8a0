"""CoBa against the published formulas, written out slowly with loops."""

import dataclasses
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from anneal_api.finetunejob import Coba
from anneal_trainers.training import coba

CONSTANTS = Coba(warmup_steps=2, history_steps=5, tau=5.0)


def run(losses: Sequence[Sequence[float | None]], constants: Coba = CONSTANTS) -> list[coba.State]:
    """Return the state after each measurement, one every every_steps."""
    states, state = [], coba.start(len(losses[0]))
    for number, row in enumerate(losses, 1):
        state = coba.observe(state, number * constants.every_steps, row, constants)
        states.append(state)
    return states


def slow_weights(losses: Sequence[Sequence[float]], warmup: int, window: int, tau: float) -> list[float]:
    """Return the weights after the last of the measurements, straight from the paper's definitions."""
    tasks = len(losses[0])
    slopes: list[list[float]] = []
    for now in range(warmup, len(losses) + 1):
        rows = losses[max(0, now - window) : now]
        slopes.append([slow_slope([row[i] / losses[0][i] for row in rows]) for i in range(tasks)])
    if not slopes:
        return [1 / tasks] * tasks
    newest = slopes[-1]
    rcs = slow_softmax([tasks * a / sum(abs(b) for b in newest) for a in newest])
    last = slopes[-window:]
    acs = slow_softmax([-len(last) * newest[i] / sum(abs(row[i]) for row in last) for i in range(tasks)])
    largest = [max(row) for row in slopes]
    t = len(largest)
    odds = slow_softmax([-tau * t * a / sum(abs(b) for b in largest) for a in largest])
    df = min(t * odds[-1], 1.0)
    return [df * r + (1 - df) * a for r, a in zip(rcs, acs, strict=True)]


def slow_slope(values: Sequence[float]) -> float:
    n = len(values)
    sx, sy = sum(range(n)), sum(values)
    sxy, sxx = sum(x * y for x, y in enumerate(values)), sum(x * x for x in range(n))
    return (n * sxy - sx * sy) / (n * sxx - sx * sx)


def slow_softmax(logits: Sequence[float]) -> list[float]:
    total = sum(math.exp(value) for value in logits)
    return [math.exp(value) / total for value in logits]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("window", [2, 5, 40])
def test_weights_are_those_of_the_published_formulas(seed: int, window: int) -> None:
    random = np.random.default_rng(seed)
    constants = Coba(warmup_steps=3, history_steps=window, tau=0.7)
    losses = (np.linspace(3, 1, 30)[:, None] + random.normal(0, 0.3, (30, 4)) + 1).tolist()
    for number, state in enumerate(run(losses, constants), 1):
        expected = slow_weights(losses[:number], 3, window, 0.7)
        assert coba.weights(state, constants) == pytest.approx(expected, rel=1e-10, abs=1e-14)


def test_an_example_computed_by_hand() -> None:
    """Slopes of a: -0.2, -0.15; of b: -0.1, 0.05, as its loss rises again."""
    state = run([[2.0, 4.0], [1.6, 3.6], [1.4, 4.4]])[-1]
    factor = 2 / (1 + math.exp(10))
    relative = 1 / (1 + math.exp(2))
    absolute = 1 / (1 + math.exp(-2 * 0.15 / 0.35 - 2 * 0.05 / 0.15))
    assert coba.divergence_factor(np.asarray(state.largest), 5.0) == pytest.approx(factor)
    weights = coba.weights(state, CONSTANTS)
    assert weights[0] == pytest.approx(factor * relative + (1 - factor) * absolute)
    assert weights == pytest.approx([0.8210, 0.1790], abs=1e-4)


def test_weights_are_equal_until_the_warm_up_is_over() -> None:
    states = run([[1.0, 1.0, 1.0], [0.9, 0.5, 0.8], [0.8, 0.4, 0.9]], Coba(warmup_steps=3))
    assert [coba.weights(state, CONSTANTS).tolist() == [1 / 3] * 3 for state in states] == [True, True, False]


def test_a_warm_up_need_be_no_multiple_of_the_interval() -> None:
    constants = Coba(warmup_steps=7, every_steps=3)
    states = run([[1.0, 1.0], [0.9, 0.5], [0.8, 0.4], [0.7, 0.3]], constants)
    assert [len(state.largest) for state in states] == [0, 0, 1, 2]


def test_one_measurement_has_no_slope_even_after_the_warm_up() -> None:
    state = coba.observe(coba.start(2), 50, [1.0, 2.0], CONSTANTS)
    assert state.largest == []
    assert coba.weights(state, CONSTANTS).tolist() == [0.5, 0.5]


def test_slower_tasks_get_more_weight_while_all_converge() -> None:
    losses = [[1 - 0.01 * t, 1 - 0.002 * t, 1 - 0.005 * t] for t in range(20)]
    weights = coba.weights(run(losses)[-1], CONSTANTS)
    assert weights[1] > weights[2] > weights[0]


def test_a_task_that_diverges_loses_weight_to_those_that_converge() -> None:
    """Both converge first; then b turns: DF falls, and with it the weight of b that RCS had raised."""
    a = [1 / (1 + 0.1 * t) for t in range(30)]
    b = [1 / (1 + 0.1 * t) if t < 15 else 0.4 + 0.05 * (t - 15) for t in range(30)]
    states = run(list(zip(a, b, strict=True)))
    weights = [coba.weights(state, CONSTANTS) for state in states]
    factors = [coba.divergence_factor(np.asarray(state.largest), 5.0) for state in states[1:]]
    assert factors[0] == 1
    assert factors[-1] < 1e-3
    assert weights[-1][0] > 0.5 > weights[-1][1]
    assert weights[-1][1] < weights[14][1]


@pytest.mark.parametrize("seed", range(20))
def test_the_factor_stays_between_0_and_1_and_weights_sum_to_1(seed: int) -> None:
    random = np.random.default_rng(seed)
    constants = Coba(warmup_steps=2, history_steps=7, tau=float(random.uniform(0.1, 50)))
    losses = np.exp(random.normal(0, 3, (200, 5))).tolist()
    for state in run(losses, constants)[2:]:
        assert 0 <= coba.divergence_factor(np.asarray(state.largest), constants.tau) <= 1
        weights = coba.weights(state, constants)
        assert weights.sum() == pytest.approx(1, abs=1e-12)
        assert (weights >= 0).all()


def test_a_long_history_and_a_high_temperature_do_not_overflow() -> None:
    falling = np.concatenate([np.full(999, -1e-3), [-1.0]])
    assert coba.divergence_factor(falling, 1000.0) == 1
    assert coba.divergence_factor(-falling, 1000.0) == 0


def test_slopes_are_those_of_a_least_squares_line_through_the_last_values_alone() -> None:
    losses = np.random.default_rng(3).uniform(1, 2, (12, 2))
    state = run(losses.tolist())[-1]
    lines = np.polyfit(np.arange(5), losses[-5:] / losses[0], 1)
    assert state.slopes[-1] == pytest.approx(lines[0])
    assert (len(state.ratios), len(state.slopes), len(state.largest)) == (5, 5, 11)


def test_losses_of_another_scale_give_the_same_weights() -> None:
    losses = np.random.default_rng(4).uniform(1, 2, (12, 3))
    one, other = (run(rows.tolist())[-1] for rows in (losses, losses * [1, 50, 0.01]))
    assert coba.weights(one, CONSTANTS) == pytest.approx(coba.weights(other, CONSTANTS))


def test_a_state_goes_through_a_checkpoint_unchanged() -> None:
    losses = np.random.default_rng(5).uniform(1, 2, (20, 3)).tolist()
    losses[0][2] = losses[7][1] = None
    uninterrupted = run(losses)[-1]
    state = run(losses[:9])[-1]
    state = coba.State(**json.loads(json.dumps(dataclasses.asdict(state), allow_nan=False)))
    for number, row in enumerate(losses[9:], 10):
        state = coba.observe(state, number, row, CONSTANTS)
    assert state == uninterrupted
    assert (coba.weights(state, CONSTANTS) == coba.weights(uninterrupted, CONSTANTS)).all()


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([[3.0, 2.0]] * 6, [0.5, 0.5]),
        ([[3.0], [2.0], [1.0]], [1.0]),
        ([[3.0]] * 3, [1.0]),
    ],
)
def test_what_does_not_move_is_weighed_evenly(losses: list[list[float]], expected: list[float]) -> None:
    assert coba.weights(run(losses)[-1], CONSTANTS) == pytest.approx(expected)


def test_one_constant_task_among_others_is_no_division_by_zero() -> None:
    weights = coba.weights(run([[1.0, 1.0], [0.9, 1.0], [0.8, 1.0]])[-1], CONSTANTS)
    assert weights[1] > weights[0] > 0


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, 0.0])
def test_a_task_that_is_never_measured_keeps_an_equal_share(missing: float | None) -> None:
    random = np.random.default_rng(6).uniform(1, 2, (10, 2)).tolist()
    with_it = coba.weights(run([[a, missing, b] for a, b in random])[-1], CONSTANTS)
    alone = coba.weights(run(random)[-1], CONSTANTS)
    assert with_it == pytest.approx([alone[0] * 2 / 3, 1 / 3, alone[1] * 2 / 3])


def test_a_task_counts_from_its_first_usable_measurement() -> None:
    state = run([[1.0, 0.0], [0.9, math.inf], [0.8, 4.0], [0.7, 2.0]])[-1]
    assert state.first == [1.0, 4.0]
    assert state.slopes[-1] == pytest.approx([-0.1, -0.5])


def test_a_measurement_that_failed_leaves_a_gap_in_its_task_alone() -> None:
    losses: list[list[float | None]] = [[1.0, 1.0], [0.9, 0.8], [0.8, math.nan], [0.7, 0.4]]
    state = run(losses)[-1]
    assert state.ratios[2] == [0.8, None]
    assert state.slopes[-1] == pytest.approx([-0.1, -0.2])
