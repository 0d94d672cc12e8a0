"""The memory plans against published figures and arithmetic done by hand; measured peaks are in test_memory_plan.py."""

from dataclasses import replace
from typing import Any

import pytest
from tests.model_shapes import DEEPSEEK_33B

from anneal_api.memory import (
    ACCELERATOR,
    CPU,
    CPU_RUNTIME,
    GIB,
    ModelShape,
    Plan,
    ServingPlan,
    serving_plan,
    training_plan,
)

SMALL = ModelShape(
    architecture="LlamaForCausalLM",
    layers=3,
    hidden=10,
    intermediate=20,
    heads=2,
    kv_heads=1,
    head_size=5,
    vocabulary=100,
    max_positions=64,
    tied=True,
)
A100 = 79


def recipe(quantized: bool = True, tokens: int = 4096, memory_gib: float = A100, sharded_by: int = 1) -> Plan:
    return training_plan(
        DEEPSEEK_33B,
        ACCELERATOR,
        quantized=quantized,
        rank=192,
        tokens=tokens,
        memory_gib=memory_gib,
        sharded_by=sharded_by,
    )


def test_33b_has_33_billion_parameters() -> None:
    total = DEEPSEEK_33B.linear_parameters + DEEPSEEK_33B.embedding_parameters
    assert total == pytest.approx(33.34e9, rel=0.005)


def a10(**limits: int | None) -> ServingPlan:
    asked: dict[str, Any] = {"group": 128, "sequence": 6144, "batch": 8} | limits
    return serving_plan(DEEPSEEK_33B, memory_gib=22.5, **asked)


def test_33b_on_an_a10_has_the_published_figures() -> None:
    plan = a10()
    terms = dict(plan.fixed.terms)
    assert terms["weights"] == pytest.approx(17.88e9, rel=0.01)
    assert plan.token_bytes == 248 * 1024
    assert 1.0 < (terms["runtime"] + terms["activations"]) / GIB < 1.5
    assert 17_000 <= plan.kv_tokens <= 19_000


def test_a_cache_of_eight_bits_holds_nearly_twice_the_tokens() -> None:
    # 128 values of a head and two float32 beside them, against 256 bytes.
    assert a10(int8_cache=True).token_bytes == 248 * 1024 * (128 + 8) / 256
    assert a10(int8_cache=True).kv_tokens == pytest.approx(a10().kv_tokens * 256 / 136, rel=1e-3)


def test_what_is_beyond_the_cache_queues() -> None:
    plan = a10()
    assert plan.fits
    assert plan.oversubscribed
    assert (plan.guaranteed_batch, plan.guaranteed_length) == (plan.kv_tokens // 6144, plan.kv_tokens // 8)
    assert plan.guaranteed_batch in (2, 3)
    assert f"8 of {plan.kv_tokens // 8}; longer ones queue" in plan.arithmetic


def test_what_the_cache_holds_is_guaranteed() -> None:
    plan = a10(batch=4, sequence=4096)
    assert plan.fits
    assert not plan.oversubscribed
    assert (plan.guaranteed_batch, plan.guaranteed_length) == (4, 4096)
    assert plan.arithmetic.endswith("4 of 4 sequences of 4096 guaranteed")


def test_one_sequence_that_does_not_fit_is_too_long() -> None:
    assert a10(sequence=16_384).fits
    longer = a10(sequence=24_576)
    assert not longer.fits
    assert "GiB of 22.50 GiB; room for" in longer.arithmetic


def test_33b_does_not_fit_an_a10_in_full_precision() -> None:
    plan = a10(group=None, batch=1, sequence=2)
    assert not plan.fits
    assert plan.kv_tokens == 0
    assert "weights 62.1" in plan.arithmetic


def test_two_accelerators_halve_weights_and_cache() -> None:
    one, two = a10(), a10(ranks=2)
    assert dict(two.fixed.terms)["weights"] == dict(one.fixed.terms)["weights"] / 2
    assert two.token_bytes == one.token_bytes / 2
    assert two.guaranteed_batch == 8


def test_openvino_takes_the_cache_of_all_sequences_at_once() -> None:
    limits = {"group": 32, "sequence": 64, "memory_gib": CPU_RUNTIME / GIB + 0.002, "cpu": True}
    few, many = (serving_plan(SMALL, batch=batch, **limits) for batch in (1, 1000))
    assert few.fits
    assert not many.fits
    assert many.guaranteed_batch > 1


def test_serving_terms_by_hand() -> None:
    plan = serving_plan(SMALL, group=32, sequence=64, batch=300, memory_gib=1, cpu=True)
    linear = 3 * (10 * 5 * (2 * 2 + 2 * 1) + 3 * 10 * 20)
    # 300 tokens of a step: more sequences than CPU_BATCH_TOKENS; 3 x 10 + (2 x 2 + 2 x 1) x 5 + 3 x 20 values.
    assert dict(plan.fixed.terms) == {
        "weights": linear * 4.5 / 8 + 100 * 10 * 2,
        "runtime": CPU_RUNTIME,
        "activations": 300 * (120 * 4 + 100 * 4),
    }
    assert plan.token_bytes == 3 * 2 * 1 * 5 * 2


def test_the_recipe_fits_an_a100_whole_on_every_rank() -> None:
    plan = recipe()
    assert plan.fits
    terms = dict(plan.terms)
    # 17 GB of NF4 and the embeddings in bf16; 1.48 billion weights of the adapter at 18 bytes.
    assert terms["weights"] == pytest.approx(17.0e9 + 0.92e9, rel=0.01)
    assert terms["adapter, gradients, AdamW"] == pytest.approx(62 * 192 * 124160 * 18)
    assert terms["checkpoint's copy"] == 0


def test_the_recipe_does_not_fit_in_bf16_nor_on_a_small_card_nor_with_packs_of_64k() -> None:
    assert not recipe(quantized=False).fits
    assert not recipe(memory_gib=40).fits
    assert not recipe(tokens=65_536).fits


def test_fsdp_makes_a_base_fit_that_ddp_does_not() -> None:
    assert not recipe(memory_gib=48).fits
    assert recipe(memory_gib=48, sharded_by=8).fits


def test_fsdp_divides_the_layers_and_holds_two_of_them_whole() -> None:
    linear = DEEPSEEK_33B.linear_parameters * 4.127 / 8
    whole, parts = (dict(recipe(sharded_by=n).terms)["weights"] for n in (1, 8))
    assert whole - parts == pytest.approx(linear - linear / 8 - linear * 2 / 62)


def test_under_fsdp_the_largest_moment_may_be_loading() -> None:
    big = DEEPSEEK_33B.model_copy(update={"layers": 200})
    plan = training_plan(big, ACCELERATOR, quantized=True, rank=1, tokens=64, memory_gib=60, sharded_by=16)
    assert [name for name, _ in plan.terms] == ["runtime", "whole base while loading"]
    assert plan.fits
    assert not replace(plan, available=50 * GIB).fits


def test_a_cpu_keeps_what_an_accelerator_computes_again() -> None:
    kept = {
        site.float_bytes: dict(
            training_plan(SMALL, site, quantized=True, rank=2, tokens=7, memory_gib=1).terms
        )["activations"]
        / site.heap
        for site in (CPU, ACCELERATOR)
    }
    # By hand, a position of a layer: 4 x 10 + (3 x 10 + 2 x 5 + 2) + 4 x 20 + 7 x 2 = 176 values.
    assert kept[4] == pytest.approx(7 * 4 * 3 * 176)
    assert kept[2] == pytest.approx(7 * 2 * 3 * 10)


def test_training_terms_by_hand() -> None:
    plan = training_plan(SMALL, CPU, quantized=False, rank=2, tokens=7, memory_gib=1, references=1)
    terms = dict(plan.terms)
    linear = 3 * (10 * 5 * (2 * 2 + 2 * 1) + 3 * 10 * 20)
    adapter = 3 * 2 * ((10 + 10) + 2 * (10 + 5) + (10 + 10) + 3 * (10 + 20))
    assert terms["weights"] == (linear + 100 * 10) * 4
    assert terms["adapter, gradients, AdamW"] == adapter * 20
    assert terms["checkpoint's copy"] == adapter * 12
    assert terms["logits"] == CPU.heap * 7 * 100 * 12
    assert terms["one layer backward"] == CPU.heap * 7 * (4 * 20 + 4 * 10) * 4


def test_only_the_named_layers_have_an_adapter() -> None:
    assert SMALL.adapter_parameters(2, ["q_proj", "down_proj"]) == 3 * 2 * ((10 + 10) + (20 + 10))
    assert SMALL.adapter_parameters(2) > SMALL.adapter_parameters(2, ["q_proj", "down_proj"])


def test_arithmetic_adds_up() -> None:
    plan = recipe()
    assert plan.needed == pytest.approx(sum(size for _, size in plan.terms))
    assert f"= {plan.needed / GIB:.2f} GiB" in plan.arithmetic
