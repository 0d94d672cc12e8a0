"""Rounding keeps its bounds; activation-aware rounding earns its place where activations have outliers."""

import pytest
import torch

from anneal_api import timing
from anneal_serving import awq, compensation, quantize, rounding
from anneal_serving.awq import Observed, Quantized


def restored(quantized: Quantized) -> torch.Tensor:
    groups = quantized.nibbles.float().reshape(*quantized.scales.shape, -1) * quantized.scales[:, :, None]
    return groups.flatten(1) * quantized.prequant


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(48, 128, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def inputs() -> torch.Tensor:
    rows = torch.randn(400, 128, generator=torch.Generator().manual_seed(1))
    rows[:, [3, 40, 99]] *= 30
    return rows


def observed(inputs: torch.Tensor) -> Observed:
    seen = Observed(inputs.shape[1], inputs.device)
    seen.add(inputs[:150])
    seen.add(inputs[150:])
    return seen


@pytest.mark.parametrize("group", [32, 64, 128])
def test_rounding_is_within_half_a_step_but_for_clipped_opposites(weight: torch.Tensor, group: int) -> None:
    scales = rounding.extreme_scales(weight, group)
    steps = scales.abs().repeat_interleave(group, 1)
    error = (rounding.restored(weight, scales) - weight).abs() / steps
    clipped = weight / scales.repeat_interleave(group, 1) > 7
    assert float(error[~clipped].max()) <= 0.5 + 1e-3
    assert float(error.max()) <= 1 + 1e-2


def test_the_largest_weight_of_a_group_becomes_minus_eight(weight: torch.Tensor) -> None:
    quantized = awq.round_to_nearest(weight, 64)
    assert torch.equal(
        quantized.nibbles.reshape(48, 2, 64).amin(2), torch.full((48, 2), -8, dtype=torch.int8)
    )


def test_of_two_largest_of_either_sign_the_first_becomes_minus_eight() -> None:
    weight = torch.tensor([[3.0, -3.0, 1.0, 0.0], [-3.0, 3.0, 1.0, 0.0], [-3.0, 2.0, 3.0, 0.0]])
    assert rounding.extreme_scales(weight, 4).flatten().tolist() == [-0.375, 0.375, 0.375]


def test_rows_are_rounded_alike_however_many_at_once(
    weight: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = awq.round_to_nearest(weight, 32)
    monkeypatch.setattr(awq, "CACHED", 5 * 128)
    parts = awq.round_to_nearest(weight, 32)
    assert torch.equal(whole.nibbles, parts.nibbles)
    assert torch.equal(whole.scales, parts.scales)
    assert whole.relative_error == pytest.approx(parts.relative_error)
    change = (restored(whole) - weight).square().sum() / weight.square().sum()
    assert whole.relative_error == pytest.approx(float(change), rel=1e-4)


def test_a_group_of_zeros_stays_zero() -> None:
    assert torch.equal(restored(awq.round_to_nearest(torch.zeros(2, 32), 32)), torch.zeros(2, 32))


def test_gram_does_not_depend_on_how_rows_arrive(inputs: torch.Tensor) -> None:
    assert torch.allclose(observed(inputs).gram, inputs.T @ inputs, rtol=1e-4, atol=1e-2)


def test_half_of_gram_is_summed_and_all_of_it_told() -> None:
    inputs = torch.randn(400, 2 * awq.GRAM_BLOCK + 66, generator=torch.Generator().manual_seed(2))
    gram = observed(inputs).gram
    assert torch.equal(gram, gram.T)
    assert torch.allclose(gram, inputs.T @ inputs, rtol=1e-4, atol=1e-2)


def test_awq_beats_rounding_on_planted_outlier_channels(weight: torch.Tensor, inputs: torch.Tensor) -> None:
    plain = restored(awq.round_to_nearest(weight, 64))
    aware = restored(awq.activation_aware([weight], observed(inputs), 64)[0])
    truth = inputs @ weight.T
    assert (inputs @ aware.T - truth).square().sum() < 0.25 * (inputs @ plain.T - truth).square().sum()


def test_the_reported_error_is_that_of_the_output(weight: torch.Tensor, inputs: torch.Tensor) -> None:
    quantized = awq.activation_aware([weight], observed(inputs), 64)[0]
    truth = inputs @ weight.T
    error = (inputs @ restored(quantized).T - truth).square().sum() / truth.square().sum()
    assert quantized.relative_error == pytest.approx(float(error), rel=0.02)


def test_layers_with_one_input_share_its_factor(weight: torch.Tensor, inputs: torch.Tensor) -> None:
    first, second = awq.activation_aware([weight, weight.flip(0) * 2], observed(inputs), 32)
    assert torch.equal(first.prequant, second.prequant)
    assert not torch.equal(first.prequant, torch.ones(128))


def test_layers_with_one_input_keep_their_own_error(weight: torch.Tensor, inputs: torch.Tensor) -> None:
    weights = [weight, weight[:16].flip(1)]
    for quantized, truth in zip(awq.activation_aware(weights, observed(inputs), 32), weights, strict=True):
        output = inputs @ truth.T
        error = (inputs @ restored(quantized).T - output).square().sum() / output.square().sum()
        assert quantized.relative_error == pytest.approx(float(error), rel=0.02)


def test_clipping_is_never_worse_than_the_full_range(weight: torch.Tensor) -> None:
    heavy = weight * weight.abs()
    even = torch.randn(600, 128, generator=torch.Generator().manual_seed(2))
    plain = awq.round_to_nearest(heavy, 128)
    clipped = awq.activation_aware([heavy], observed(even), 128)[0]

    def error(quantized: Quantized) -> torch.Tensor:
        return (even @ (restored(quantized) - heavy).T).square().sum()

    assert error(clipped) < 0.9 * error(plain)


def test_columns_make_up_for_each_other_where_inputs_are_correlated(weight: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(800, 24, generator=generator) @ torch.randn(24, 128, generator=generator)
    quantized = awq.activation_aware([weight], observed(inputs), 64)[0]
    nearest = rounding.restored(weight / quantized.prequant, quantized.scales) * quantized.prequant

    def error(found: torch.Tensor) -> torch.Tensor:
        return (inputs @ (found - weight).T).square().sum()

    assert error(restored(quantized)) < 0.5 * error(nearest)


def test_the_time_that_a_plan_names_counts_these_searches() -> None:
    assert timing.CALIBRATION_TOKENS == quantize.TOTAL_TOKENS
    assert len(awq.ALPHAS) * awq.SEARCH_ROWS == timing.SEARCH
    assert len(awq.SHRINKS) == timing.SHRINKS
    assert compensation.SWEEPS == timing.SWEEPS
