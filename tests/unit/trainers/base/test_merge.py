"""The merge computes what was trained; a wrong one, by 1% of the scale or by one layer, is never published."""

from pathlib import Path
from typing import Any

import pytest
import torch
from family_models import CPU, pack, plain, rows, trainee, write_family

from anneal_trainers import export
from anneal_trainers.base import merge, model, weights

BATCH = pack(rows())


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("smollm"), "smollm2")


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty layers with weights large enough to make each other's rounding errors grow."""
    return write_family(tmp_path_factory.mktemp("deep"), "llama", 0.25, num_hidden_layers=30)


def adapted(folder: Path, kind: str = "qlora", scale: float = 0.05) -> Any:
    return trainee(folder, kind, scale).model.eval()


@pytest.mark.parametrize("kind", ["qlora", "lora"])
def test_the_merged_model_computes_what_the_adapter_model_computes(smollm: Path, kind: str) -> None:
    tuned = adapted(smollm, kind)
    merged = merge.merged_model(tuned)
    found = merge.check_parity(tuned, merged, BATCH)
    assert (found.arithmetic, found.difference < 2e-5) == ("float32", True)
    with tuned.disable_adapter():
        assert merge.parity(tuned, merged, BATCH) > 0.01


def test_a_wrong_merge_is_found(smollm: Path) -> None:
    tuned = adapted(smollm)
    layer = tuned.get_base_model().model.layers[1].mlp.up_proj
    right = merge.merged_model(tuned)

    layer.scaling["default"] *= 1.01
    with pytest.raises(merge.ParityError, match="in float64; 1e-04 is allowed, so nothing is published"):
        merge.check_parity(tuned, right, BATCH)
    layer.scaling["default"] = 0.0
    with pytest.raises(merge.ParityError):
        merge.check_parity(tuned, right, BATCH)
    layer.scaling["default"] = 2.0
    merge.check_parity(tuned, right, BATCH)

    right.model.layers[0].self_attn.q_proj.weight[0, 0] = torch.nan
    with pytest.raises(merge.ParityError, match="by nan"):
        merge.check_parity(tuned, right, BATCH)


@pytest.mark.slow
def test_where_float32_itself_exceeds_the_limit_float64_is_the_judge(deep: Path) -> None:
    tuned = adapted(deep)
    merged = merge.merged_model(tuned)
    before = model.hidden_states(tuned, BATCH)
    assert merge.parity(tuned, merged, BATCH) > merge.PARITY_LIMIT
    found = merge.check_parity(tuned, merged, BATCH)
    assert (found.arithmetic, found.difference < merge.PARITY_LIMIT / 2) == ("float64", True)
    assert torch.equal(model.hidden_states(tuned, BATCH), before)
    merged.model.layers[17].mlp.down_proj.weight.mul_(1.001)
    with pytest.raises(merge.ParityError):
        merge.check_parity(tuned, merged, BATCH)


@pytest.mark.parametrize("kind", ["qlora", "lora"])
def test_bf16_weights_diverge_as_rounding_alone_does(smollm: Path, kind: str) -> None:
    tuned = adapted(smollm, kind)
    alone = merge.divergence(tuned, merge.rounded_model(tuned), BATCH)
    merged = merge.merged_model(tuned)
    assert merge.divergence(tuned, merged, BATCH) < alone / 1000
    export.round_to_bf16(merged)
    published = merge.divergence(tuned, merged, BATCH)
    merge.check_rounding(published, alone)
    assert published > alone / 2


def test_merging_into_the_weights_before_their_quantisation_is_found_by_both_checks(smollm: Path) -> None:
    tuned = adapted(smollm)
    wrong = merge.merged_model(tuned)
    original = weights.load_base(smollm, quantized=False, device=CPU, dtype=torch.float32)
    base = tuned.get_base_model()
    for name in weights.quantized_layers(base):
        path = name.removesuffix(".base_layer")
        delta = merge._delta(base.get_submodule(path)).float()
        wrong.get_submodule(path).weight.data = original.get_submodule(path).weight.data + delta
    with pytest.raises(merge.ParityError):
        merge.check_parity(tuned, wrong, BATCH)
    alone = merge.divergence(tuned, merge.rounded_model(tuned), BATCH)
    with pytest.raises(merge.ParityError, match="diverges from the trained one by .*2 times that is allowed"):
        merge.check_rounding(merge.divergence(tuned, wrong, BATCH), alone)


def test_a_base_already_in_bf16_does_not_make_rounding_look_free(smollm: Path, tmp_path: Path) -> None:
    plain(smollm).to(torch.bfloat16).save_pretrained(tmp_path)
    tuned = adapted(tmp_path, "lora")
    alone = merge.divergence(tuned, merge.rounded_model(tuned), BATCH)
    merged = merge.merged_model(tuned)
    export.round_to_bf16(merged)
    merge.check_rounding(merge.divergence(tuned, merged, BATCH), alone)


def test_a_divergence_that_is_no_number_is_too_large() -> None:
    with pytest.raises(merge.ParityError):
        merge.check_rounding(float("nan"), 1.0)
