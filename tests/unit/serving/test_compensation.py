"""Rounding that makes up for itself: each of its steps lowers the error of the output, and none leaves the format."""

import pytest
import torch
from torch import Tensor

from anneal_serving import compensation, rounding

GROUP = 32


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(48, 128, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def gram() -> Tensor:
    """Correlated inputs, some much stronger than others."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(800, 40, generator=generator) @ torch.randn(40, 128, generator=generator)
    inputs += 0.3 * torch.randn(800, 128, generator=generator)
    inputs *= torch.linspace(-1, 1, 128).exp()
    return inputs.T @ inputs


def error(weight: Tensor, nibbles: Tensor, scales: Tensor, gram: Tensor) -> float:
    difference = nibbles * scales.repeat_interleave(GROUP, 1) - weight
    return float(((difference @ gram) * difference).sum())


def after(monkeypatch: pytest.MonkeyPatch, sweeps: int, weight: Tensor, gram: Tensor) -> float:
    monkeypatch.setattr(compensation, "SWEEPS", sweeps)
    scales = rounding.extreme_scales(weight, GROUP)
    return error(weight, *compensation.compensated(weight, scales, gram), gram)


def test_each_sweep_lowers_the_error(weight: Tensor, gram: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [after(monkeypatch, sweeps, weight, gram) for sweeps in (0, 1, 2)]
    assert errors[1] < 0.95 * errors[0]
    assert errors[2] < errors[1]


def test_columns_are_rounded_by_their_strength_wherever_they_stand(
    weight: Tensor, gram: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compensation, "SWEEPS", 0)
    scales = rounding.extreme_scales(weight, GROUP)
    found, _ = compensation.compensated(weight, scales, gram)
    again, _ = compensation.compensated(weight.flip(1), scales.flip(1), gram.flip(0, 1))
    assert (found == again.flip(1)).float().mean() > 0.995


def test_what_is_stored_is_what_was_measured(weight: Tensor, gram: Tensor) -> None:
    nibbles, scales = compensation.compensated(weight, rounding.extreme_scales(weight, GROUP), gram)
    assert torch.equal(nibbles, nibbles.to(torch.int8).float())
    assert nibbles.min() >= -8
    assert nibbles.max() <= 7
    assert torch.equal(scales, scales.half().float())


def test_scales_that_are_off_are_mended(weight: Tensor, gram: Tensor) -> None:
    off = rounding.stored(rounding.extreme_scales(weight, GROUP) * 1.7)
    nibbles, scales = compensation.compensated(weight, off, gram)
    kept = rounding.nibbles(weight, off).flatten(1)
    assert error(weight, nibbles, scales, gram) < 0.5 * error(weight, kept, off, gram)


def test_a_row_of_zeros_keeps_its_scales(weight: Tensor, gram: Tensor) -> None:
    weight[5] = 0
    nibbles, scales = compensation.compensated(weight, rounding.extreme_scales(weight, GROUP), gram)
    assert not nibbles[5].any()
    assert torch.equal(scales[5], torch.ones(4))


def test_inputs_that_calibration_has_not_seen_are_rounded_to_nearest(weight: Tensor) -> None:
    scales = rounding.extreme_scales(weight, GROUP)
    nibbles, found = compensation.compensated(weight, scales, torch.zeros(128, 128))
    plain = rounding.nibbles(weight, scales).flatten(1)
    assert error(weight, nibbles, found, torch.eye(128)) < error(weight, plain, scales, torch.eye(128))
    assert torch.equal(nibbles, rounding.nibbles(weight, found).flatten(1))
