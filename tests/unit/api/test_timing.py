"""How long AWQ takes: near what was measured for a small model, and of the right order for a large one."""

import pytest
from tests.model_shapes import DEEPSEEK_33B, SMOLLM2

from anneal_api import sizing, timing
from anneal_api.finetunejob import FineTuneJobSpec
from anneal_api.modeldeployment import ModelDeploymentSpec
from anneal_api.profiles import AcceleratorProfile

A100 = AcceleratorProfile(
    name="a100-80g", memory_gib=79, compute_capability="8.0", resource_name="nvidia.com/gpu"
)


def spec(method: str) -> ModelDeploymentSpec:
    fields = {"model": {"uri": "pvc://store/team/model/k"}, "quantization": {"method": method}}
    return ModelDeploymentSpec.model_validate(fields)


def test_operations_by_hand() -> None:
    one = SMOLLM2.model_copy(
        update={"layers": 1, "hidden": 2, "intermediate": 2, "heads": 1, "kv_heads": 1, "head_size": 2}
    )
    # Outputs 6, 2, 4 and 2 of two inputs each.
    layers = [
        2 * 16384 * 2 * (out + 2) + 2 * 1408 * 4 + 2 * 10 * out * 2 * 32 + 4 / 3 * 8 + 11 * out * 4
        for out in (6, 2, 4, 2)
    ]
    assert timing.awq_operations(one, 32) == pytest.approx(sum(layers))


def test_a_small_model_takes_what_was_measured() -> None:
    assert timing.awq_seconds(SMOLLM2, 32, None) == pytest.approx(251, rel=0.1)


def test_a_large_model_needs_an_accelerator() -> None:
    assert timing.awq_seconds(DEEPSEEK_33B, 128, None) > 24 * 3600
    assert 300 < timing.awq_seconds(DEEPSEEK_33B, 128, A100) < 900
    # What is not in the table counts as the slowest that is.
    unknown = A100.model_copy(update={"compute_capability": "12.0"})
    assert timing.awq_seconds(DEEPSEEK_33B, 128, unknown) > timing.awq_seconds(DEEPSEEK_33B, 128, A100)


def test_the_plan_says_it() -> None:
    assert sizing.quantizing(spec("awq"), DEEPSEEK_33B, A100) == "AWQ takes about 14 min on a100-80g"
    assert sizing.quantizing(spec("awq"), DEEPSEEK_33B, None).startswith(
        "AWQ takes about 62 h on two CPU cores"
    )
    assert sizing.quantizing(spec("rtn"), DEEPSEEK_33B, None) == ""
    assert [timing.shown(s) for s in (12.4, 600, 7200)] == ["12 s", "10 min", "2 h"]


def job(**optimization: object) -> FineTuneJobSpec:
    fields = {
        "baseModel": {"uri": "pvc://store/base"},
        "tasks": [{"name": "a", "data": {"uri": "pvc://store/a.jsonl"}}],
        "output": {"uri": "pvc://store/artifacts"},
        "workers": {"nodes": 8, "acceleratorsPerNode": 8},
        "optimization": optimization,
    }
    return FineTuneJobSpec.model_validate(fields)


def test_training_is_a_multiple_of_weights_and_tokens() -> None:
    weights = SMOLLM2.linear_parameters + SMOLLM2.vocabulary * SMOLLM2.hidden
    work = timing.training_operations(SMOLLM2, 1000, recompute=True)
    assert work == pytest.approx(6 * weights * 1000)
    assert timing.training_operations(SMOLLM2, 1000, recompute=False, references=1) == pytest.approx(work)
    assert timing.training_seconds(312e12, 1, A100) == pytest.approx(1 / timing.REACHED)
    assert timing.training_seconds(312e12, 64, A100) == pytest.approx(1 / 64 / timing.REACHED)


@pytest.mark.parametrize(
    ("optimization", "rows", "tokens"),
    [
        ({"maxSteps": 100, "globalBatchTokens": 4096}, None, 409_600),
        ({"maxSteps": 100, "globalBatchRows": 4}, 1e6, 100 * 4 * 4096),
        ({"epochs": 3}, 1e6, 3e6),
        ({}, 1e6, 1e6),
        ({"epochs": 3}, None, None),
    ],
)
def test_tokens_of_a_run(optimization: dict[str, object], rows: float | None, tokens: float | None) -> None:
    spec = job(**optimization)
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"max_length": 4096})})
    assert sizing.training_tokens(spec, rows) == tokens


def test_the_published_recipe_takes_days_not_weeks() -> None:
    told = sizing.training_time(job(epochs=10), DEEPSEEK_33B, A100, 1e9)
    assert told == "1e+10 tokens take about 69 h on 64 x a100-80g, at rates that were not measured there"
