"""The memory plans against published figures."""

import pytest

from anneal_api.memory import GIB, ModelShape, serving_plan, training_plan

DEEPSEEK_33B = ModelShape(
    architecture="LlamaForCausalLM",
    layers=62,
    hidden=7168,
    intermediate=19200,
    heads=56,
    kv_heads=8,
    head_size=128,
    vocabulary=32256,
    max_positions=16384,
    tied=False,
)


def test_33b_has_33_billion_parameters() -> None:
    total = DEEPSEEK_33B.linear_parameters + DEEPSEEK_33B.embedding_parameters
    assert total == pytest.approx(33.34e9, rel=0.005)


def test_33b_int4_weights_and_cache_are_the_published_ones() -> None:
    plan = serving_plan(DEEPSEEK_33B, group=128, sequence=4096, batch=4, memory_gib=22.5)
    assert dict(plan.terms)["weights"] == pytest.approx(17.88e9, rel=0.01)
    assert DEEPSEEK_33B.kv_bytes_per_token == 248 * 1024
    assert plan.fits


def test_33b_does_not_fit_an_a10_in_full_precision() -> None:
    plan = serving_plan(DEEPSEEK_33B, group=None, sequence=4096, batch=1, memory_gib=22.5)
    assert not plan.fits
    assert "of 22.50 GiB" in plan.arithmetic


def test_33b_qlora_fits_an_a100_and_lora_does_not() -> None:
    def plan(quantized: bool) -> bool:
        return training_plan(
            DEEPSEEK_33B, quantized=quantized, rank=192, tokens=4096, float_bytes=2, memory_gib=79
        ).fits

    assert plan(True)
    assert not plan(False)


def test_arithmetic_adds_up() -> None:
    plan = training_plan(DEEPSEEK_33B, quantized=True, rank=192, tokens=4096, float_bytes=2, memory_gib=79)
    assert plan.needed == pytest.approx(sum(size for _, size in plan.terms))
    assert f"= {plan.needed / GIB:.2f} GiB" in plan.arithmetic
