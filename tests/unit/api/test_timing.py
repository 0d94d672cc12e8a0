"""How long AWQ takes: near what was measured for a small model, and of the right order for a large one."""

import pytest
from tests.model_shapes import DEEPSEEK_33B, SMOLLM2

from anneal_api import sizing, timing
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
        2 * 8192 * 2 * (out + 2) + 2 * 1408 * 4 + 2 * 10 * out * 2 * 32 + 4 / 3 * 8 + 5 * out * 4
        for out in (6, 2, 4, 2)
    ]
    assert timing.awq_operations(one, 32) == pytest.approx(sum(layers))


def test_a_small_model_takes_what_was_measured() -> None:
    assert timing.awq_seconds(SMOLLM2, 32, None) == pytest.approx(149, rel=0.05)


def test_a_large_model_needs_an_accelerator() -> None:
    assert timing.awq_seconds(DEEPSEEK_33B, 128, None) > 24 * 3600
    assert 300 < timing.awq_seconds(DEEPSEEK_33B, 128, A100) < 900
    # What is not in the table counts as the slowest that is.
    unknown = A100.model_copy(update={"compute_capability": "12.0"})
    assert timing.awq_seconds(DEEPSEEK_33B, 128, unknown) > timing.awq_seconds(DEEPSEEK_33B, 128, A100)


def test_the_plan_says_it() -> None:
    assert sizing.quantizing(spec("awq"), DEEPSEEK_33B, A100) == "AWQ takes about 8 min on a100-80g"
    assert sizing.quantizing(spec("awq"), DEEPSEEK_33B, None).startswith(
        "AWQ takes about 33 h on two CPU cores"
    )
    assert sizing.quantizing(spec("rtn"), DEEPSEEK_33B, None) == ""
    assert [timing.shown(s) for s in (12.4, 600, 7200)] == ["12 s", "10 min", "2 h"]
