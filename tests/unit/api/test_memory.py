"""The memory plans against published figures and arithmetic done by hand; measured peaks are in test_memory_plan.py."""

from dataclasses import replace

import pytest

from anneal_api.memory import ACCELERATOR, CPU, GIB, ModelShape, Plan, serving_plan, training_plan

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


def test_33b_int4_weights_and_cache_are_the_published_ones() -> None:
    plan = serving_plan(DEEPSEEK_33B, group=128, sequence=4096, batch=4, memory_gib=22.5)
    assert dict(plan.terms)["weights"] == pytest.approx(17.88e9, rel=0.01)
    assert DEEPSEEK_33B.kv_bytes_per_token == 248 * 1024
    assert plan.fits


def test_33b_does_not_fit_an_a10_in_full_precision() -> None:
    plan = serving_plan(DEEPSEEK_33B, group=None, sequence=4096, batch=1, memory_gib=22.5)
    assert not plan.fits
    assert "of 22.50 GiB" in plan.arithmetic


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
