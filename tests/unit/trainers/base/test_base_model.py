"""Every family computes what transformers computes, packed and merged; what is not trained here is refused by name."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from family_models import CPU, FAMILIES, LLAMA, SMALL, logits_alone, pack, plain, rows, trainee, write_family

from anneal_api.finetunejob import FineTuneJobSpec
from anneal_runtime import model_shape
from anneal_runtime.errors import Refused
from anneal_trainers import export
from anneal_trainers.base import base_model, merge, weights

TOLERANCE = 3e-5
"""Float32, logits of a few units: some tens of units in the last place."""
CASES = [(family, kind) for family in FAMILIES for kind in ("lora", "qlora")]
QUICK = {("smollm2", "qlora"), ("deepseek-coder", "lora")}
"""A tied and an untied head; merging the others is for `make test`."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {family: write_family(root / family, family) for family in FAMILIES}


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_packed_rows_get_the_logits_transformers_gives_each_alone(
    folders: dict[str, Path], family: str, kind: str
) -> None:
    made = trainee(folders[family], kind, scale=0.0)
    parts = rows()
    with torch.no_grad():
        ours = made.states(pack(parts)) @ made.head.T
    theirs = logits_alone(plain(folders[family], kind), parts)
    assert theirs.abs().max() > 1
    assert float((ours - theirs).abs().max()) < TOLERANCE


@pytest.mark.parametrize(
    ("family", "kind"), [pytest.param(*c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES]
)
def test_the_merged_folder_gives_transformers_the_logits_of_the_adapter_model(
    folders: dict[str, Path], family: str, kind: str, tmp_path: Path
) -> None:
    made = trainee(folders[family], kind)
    parts = rows()
    with torch.no_grad():
        ours = made.states(pack(parts)) @ made.head.T
    merged = merge.merged_model(made.model.eval())
    merged.save_pretrained(tmp_path / "float32")
    theirs = logits_alone(plain(tmp_path / "float32"), parts)
    assert float((ours - theirs).abs().max()) < TOLERANCE
    export.round_to_bf16(merged)
    expected = logits_alone(merged, parts)
    export.write_model(merged, tmp_path / "bf16")
    assert float((logits_alone(plain(tmp_path / "bf16"), parts) - expected).abs().max()) < TOLERANCE
    untrained = logits_alone(plain(folders[family], kind), parts)
    assert float((ours - untrained).abs().max()) > 0.1


def test_deepseek_positions_are_a_quarter_of_what_they_are_without_scaling(folders: dict[str, Path]) -> None:
    loaded = weights.load_base(folders["deepseek-coder"], quantized=False, device=CPU, dtype=torch.float32)
    expected = 100_000.0 ** (-torch.arange(0, 16, 2) / 16) / 4
    assert torch.allclose(loaded.model.rotary_emb.inv_freq, expected)


def test_a_row_longer_than_the_sliding_window_does_not_fit() -> None:
    mistral = SMALL | FAMILIES["mistral"]
    assert model_shape.shape_of(mistral).max_positions == 64
    assert model_shape.shape_of(mistral | {"sliding_window": None}).max_positions == 256
    qwen = SMALL | FAMILIES["qwen2"] | {"sliding_window": 64}
    assert model_shape.shape_of(qwen).max_positions == 256
    assert model_shape.shape_of(qwen | {"use_sliding_window": True}).max_positions == 64


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture GPT2LMHeadModel is none of LlamaForCausalLM"),
        ({"architectures": None}, "architecture none is none of"),
        ({"architectures": "MambaForCausalLM"}, "architecture MambaForCausalLM is none of .*; name a model"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "of type dynamic is none of default, linear"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "of type longrope is none of"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantised already \(gptq\); name the model"),
    ],
)
def test_a_model_that_is_not_trained_here_is_refused_by_name(change: dict[str, Any], told: str) -> None:
    with pytest.raises(Refused, match=told) as refused:
        model_shape.shape_of(SMALL | LLAMA | change)
    assert refused.value.reason == "UnsupportedModel"


def test_a_config_that_cannot_be_read_or_states_no_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(
        Refused, match=r"spec.baseModel.uri: .*config.json is no JSON: .*; copy the model again"
    ):
        base_model.read_config(f"file://{tmp_path}")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(Refused, match=r"config.json is no JSON object; copy the model again"):
        base_model.read_config(f"file://{tmp_path}")
    sizes = {name: size for name, size in (SMALL | LLAMA).items() if name != "num_attention_heads"}
    with pytest.raises(Refused, match="config.json does not state num_attention_heads; copy the model again"):
        model_shape.shape_of(sizes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"hidden_size": "64"}, "states hidden_size as '64', which is no size; copy"),
        ({"num_attention_heads": 0}, "states num_attention_heads as 0, which is no size"),
        ({"num_key_value_heads": 1.5}, "states num_key_value_heads as 1.5"),
        ({"max_position_embeddings": None}, "does not state max_position_embeddings"),
        ({"rope_scaling": "linear"}, "states rope_scaling as 'linear', which is no object; copy"),
        ({"quantization_config": ["gptq"]}, r"states quantization_config as \['gptq'\], which is no object"),
    ],
)
def test_a_config_that_states_something_odd_is_refused_by_field_and_value(
    change: dict[str, Any], told: str
) -> None:
    with pytest.raises(Refused, match=told) as refused:
        model_shape.shape_of(SMALL | LLAMA | change)
    assert refused.value.reason == "InvalidModel"


def test_a_config_without_the_name_of_its_type_has_a_shape() -> None:
    config = {name: value for name, value in (SMALL | LLAMA).items() if name != "model_type"}
    assert model_shape.shape_of(config) == model_shape.shape_of(SMALL | LLAMA)


@pytest.mark.parametrize(
    ("field", "size", "told"),
    [
        ("hidden_size", 96, "hidden_size is 96, no multiple of 64"),
        ("intermediate_size", 130, "intermediate_size is 130"),
        ("head_dim", 24, "num_attention_heads x head_dim is 96"),
    ],
)
def test_rows_that_are_no_whole_blocks_of_nf4_are_refused_but_for_lora(
    field: str, size: int, told: str
) -> None:
    def spec(kind: str) -> FineTuneJobSpec:
        return FineTuneJobSpec.model_validate(
            {
                "baseModel": {"uri": "file:///base"},
                "tasks": [{"name": "one", "data": {"uri": "file:///rows.jsonl"}}],
                "data": {"maxLength": 64},
                "adapter": {"type": kind},
                "output": {"uri": "file:///store"},
            }
        )

    shape = model_shape.shape_of(SMALL | LLAMA | {field: size})
    base_model.check_fits(spec("lora"), shape)
    with pytest.raises(Refused, match=f"{told}.*set spec.adapter.type to lora"):
        base_model.check_fits(spec("qlora"), shape)


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_weights_that_are_no_numbers_are_refused_by_name(
    folders: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folders["llama"] / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = math.nan
    tensors["model.norm.weight"][5] = -math.inf
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folders["llama"] / "config.json").read_text())
    with pytest.raises(
        Refused, match=r"up_proj.weight, model.norm.weight \(2 in all\) holds NaN or infinity"
    ):
        weights.load_base(tmp_path, quantized=kind == "qlora", device=CPU, dtype=torch.float32)
