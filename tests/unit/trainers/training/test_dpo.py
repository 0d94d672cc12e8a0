"""Losses of preference pairs against an independent float64 formula and against autograd."""

import math

import pytest
import torch

from anneal_trainers.training import dpo

PAIRS = [
    (-4.0, -9.0, -5.0, -6.0),
    (-30.0, -10.0, -12.0, -11.0),
    (-7.0, -7.0, -7.0, -7.0),
    (-1.5, -80.0, -40.0, -2.0),
]


def slow_loss(pair: tuple[float, float, float, float], beta: float) -> float:
    chosen, rejected, reference_chosen, reference_rejected = pair
    reward_chosen = beta * (chosen - reference_chosen)
    reward_rejected = beta * (rejected - reference_rejected)
    return -math.log(1 / (1 + math.exp(-(reward_chosen - reward_rejected))))


def columns(dtype: torch.dtype) -> list[torch.Tensor]:
    return [torch.tensor(column, dtype=dtype) for column in zip(*PAIRS, strict=True)]


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_losses_are_those_of_the_formula(beta: float, dtype: torch.dtype, tolerance: float) -> None:
    loss, _ = dpo.pair_losses(*columns(dtype), beta)
    assert loss.dtype == dtype
    assert loss.tolist() == pytest.approx([slow_loss(pair, beta) for pair in PAIRS], rel=tolerance)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_coefficients_are_what_autograd_finds(beta: float) -> None:
    chosen, rejected, *reference = columns(torch.float64)
    chosen.requires_grad_()
    rejected.requires_grad_()
    loss, coefficient = dpo.pair_losses(chosen, rejected, *reference, beta)
    loss.sum().backward()
    assert torch.allclose(chosen.grad, coefficient, rtol=1e-12, atol=0)
    assert torch.allclose(rejected.grad, -coefficient, rtol=1e-12, atol=0)


def test_far_margins_overflow_and_vanish_nowhere() -> None:
    far = torch.tensor([-1e4, 1e4, -200.0], dtype=torch.float32)
    zero = torch.zeros(3)
    loss, coefficient = dpo.pair_losses(far, zero, zero, zero, 1.0)
    assert loss.tolist() == [1e4, 0.0, 200.0]
    assert coefficient.tolist() == [-1.0, 0.0, -1.0]
    assert float(dpo.losses(torch.tensor(40.0))) == pytest.approx(math.exp(-40), rel=1e-6)


def test_a_model_that_is_its_own_reference_loses_log_2_on_each_pair() -> None:
    scores = torch.tensor([-3.0, -8.0])
    loss, coefficient = dpo.pair_losses(scores, scores - 1, scores, scores - 1, 0.3)
    assert loss.tolist() == pytest.approx([math.log(2)] * 2)
    assert coefficient.tolist() == pytest.approx([-0.15] * 2)


def test_margins_between_rewards() -> None:
    margin = dpo.margins(*columns(torch.float64), 0.1)
    assert margin.tolist() == pytest.approx([0.4, -1.9, 0.0, 11.65])
