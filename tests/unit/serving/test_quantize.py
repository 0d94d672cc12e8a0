"""The checkpoint is TensorRT-LLM's to the letter, and its reader gives back weights that are near the model's."""

import json
import re
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from anneal_api.modeldeployment import Quantization
from anneal_runtime.errors import Refused
from anneal_serving import quantize
from anneal_serving.blocks import Block, Weights
from anneal_serving.checkpoint import Checkpoint, Writer
from anneal_serving.decoder import Decoder

from .conftest import write_model


def recipe(method: str = "rtn", group: int = 32) -> Quantization:
    return Quantization.model_validate({"method": method, "groupSize": group})


def made(source: Path, target: Path, recipe: Quantization, rows: int = 0) -> Checkpoint:
    target.mkdir()
    found = quantize.calibration_rows(source / "calibration.safetensors", rows) if rows else []
    quantize.quantize(source, target, recipe, found)
    return Checkpoint(target)


def test_config_has_the_documented_keys(model_folder: Path, tmp_path: Path) -> None:
    config = made(model_folder, tmp_path / "out", recipe(group=64)).config
    assert config["architecture"] == "LlamaForCausalLM"
    assert config["position_embedding_type"] == "rope_gpt_neox"
    assert config["rotary_base"] == 20000.0
    assert config["rotary_scaling"] == {"type": "linear", "factor": 4.0}
    assert config["mapping"] == {"world_size": 1, "tp_size": 1, "pp_size": 1}
    assert config["quantization"] == {
        "quant_algo": "W4A16_AWQ",
        "kv_cache_quant_algo": None,
        "group_size": 64,
        "has_zero_point": False,
        "pre_quant_scale": True,
        "exclude_modules": ["lm_head"],
    }


def test_full_precision_is_the_models_weights_in_float16(model_folder: Path, tmp_path: Path) -> None:
    checkpoint = made(model_folder, tmp_path / "out", recipe("none", group=128))
    assert checkpoint.config["quantization"] == {"quant_algo": None, "kv_cache_quant_algo": None}
    assert checkpoint.group is None
    restored = dict(checkpoint.hugging_face())
    for name, weight in load_file(model_folder / "model.safetensors").items():
        assert np.array_equal(restored[name], weight.astype(np.float16).astype(np.float32)), name


def test_a_weight_beyond_float16_is_refused(model_folder: Path, tmp_path: Path) -> None:
    weights = load_file(model_folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 4] = 70_000
    (tmp_path / "loud").mkdir()
    save_file(weights, tmp_path / "loud/model.safetensors")
    (tmp_path / "loud/config.json").write_text((model_folder / "config.json").read_text())
    with pytest.raises(Refused, match=r"a weight of mlp.proj is beyond float16's 65504; use awq or rtn"):
        made(tmp_path / "loud", tmp_path / "out", recipe("none"))


def test_tensors_have_the_documented_names_types_and_shapes(model_folder: Path, tmp_path: Path) -> None:
    made(model_folder, tmp_path / "out", recipe(group=64))
    tensors = load_file(tmp_path / "out/rank0.safetensors")
    layer = "transformer.layers.1."
    shapes = {
        "transformer.vocab_embedding.weight": ("float16", (512, 128)),
        "lm_head.weight": ("float16", (512, 128)),
        "transformer.ln_f.weight": ("float16", (128,)),
        f"{layer}attention.qkv.weight": ("int8", (128, 128)),
        f"{layer}attention.qkv.weights_scaling_factor": ("float16", (256, 2)),
        f"{layer}attention.qkv.prequant_scaling_factor": ("float16", (128,)),
        f"{layer}mlp.proj.weight": ("int8", (64, 256)),
        f"{layer}mlp.proj.weights_scaling_factor": ("float16", (128, 4)),
        f"{layer}input_layernorm.weight": ("float16", (128,)),
        f"{layer}post_layernorm.weight": ("float16", (128,)),
    }
    assert {n: (str(tensors[n].dtype), tensors[n].shape) for n in shapes} == shapes


@pytest.mark.parametrize("group", [32, 64, 128])
def test_reader_returns_the_models_weights_within_a_step(
    model_folder: Path, tmp_path: Path, group: int
) -> None:
    restored = dict(made(model_folder, tmp_path / "out", recipe(group=group)).hugging_face())
    for name, weight in load_file(model_folder / "model.safetensors").items():
        width = min(group, weight.shape[-1]) if weight.ndim == 2 and "embed" not in name else 1
        steps = np.abs(weight.reshape(-1, width)).max(1, keepdims=True) / 8
        error = np.abs(restored[name] - weight).reshape(-1, width)
        assert (error <= (steps * 1.02 if width > 1 else 1e-3 * (1 + steps * 8))).all(), name


def test_gate_and_fc_are_not_exchanged(model_folder: Path, tmp_path: Path) -> None:
    checkpoint = made(model_folder, tmp_path / "out", recipe())
    weights = load_file(model_folder / "model.safetensors")
    for ours, theirs in (("mlp.fc", "gate_proj"), ("mlp.gate", "up_proj")):
        truth = weights[f"model.layers.0.mlp.{theirs}.weight"]
        assert np.abs(checkpoint.linear(0, ours).weight() - truth).mean() < 0.1 * np.abs(truth).mean()


def test_awq_shares_input_factors_and_beats_rounding(model_folder: Path, tmp_path: Path) -> None:
    aware = made(model_folder, tmp_path / "awq", recipe("awq"), rows=16)
    linear = [aware.linear(1, name) for name in ("mlp.fc", "mlp.gate", "attention.qkv")]
    assert np.array_equal(linear[0].prequant, linear[1].prequant)
    assert not np.array_equal(linear[2].prequant, np.ones(128))


def test_qwen2_keeps_its_bias_and_an_own_head(tmp_path: Path) -> None:
    source = write_model(
        tmp_path / "qwen", architectures=["Qwen2ForCausalLM"], model_type="qwen2", tie_word_embeddings=False
    )
    checkpoint = made(source, tmp_path / "out", recipe())
    assert checkpoint.config["qwen_type"] == "qwen2"
    assert not checkpoint.decoder.tied
    weights = load_file(source / "model.safetensors")
    restored = dict(checkpoint.hugging_face())
    name = "model.layers.0.self_attn.k_proj.bias"
    assert np.allclose(restored[name], weights[name], atol=2e-3)


def test_a_group_that_does_not_divide_is_refused_by_name(tmp_path: Path) -> None:
    source = write_model(tmp_path / "odd")
    config = json.loads((source / "config.json").read_text()) | {"intermediate_size": 192}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        Refused, match=r"groupSize: 128 does not divide the 192 inputs of mlp.proj; use 64 or 32"
    ):
        quantize.quantize(source, tmp_path, recipe(group=128), [])


def test_calibration_rows_are_spread_over_the_file(model_folder: Path) -> None:
    path = model_folder / "calibration.safetensors"
    every = quantize.calibration_rows(path, 100)
    four = quantize.calibration_rows(path, 4)
    assert len(every) == 16
    assert [row.tolist() for row in four] == [every[i].tolist() for i in (0, 4, 8, 12)]


def test_too_many_tokens_make_fewer_rows_not_shorter_ones(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model_folder / "calibration.safetensors"
    every = quantize.calibration_rows(path, 100)
    monkeypatch.setattr(quantize, "TOTAL_TOKENS", 5 * 48 + 1)
    found = quantize.calibration_rows(path, 100)
    assert [row.tolist() for row in found] == [every[i].tolist() for i in (0, 3, 6, 9, 12)]
    monkeypatch.setattr(quantize, "ROW_TOKENS", 20)
    assert {len(row) for row in quantize.calibration_rows(path, 12)} == {20}


def test_each_layer_is_one_line_of_progress(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = made(model_folder, tmp_path / "out", recipe("awq"), rows=4).decoder.layers
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"layer {i + 1}/{layers}" for i in range(layers)]
    assert all(re.search(r": \d+\.\d s, relative error up to 0\.\d{5} \(\w+\.\w+\)$", line) for line in lines)


def test_progress_names_the_worst_error_of_the_latest_layer() -> None:
    figures = quantize.Figures({"attention.qkv": [0.9, 0.01], "mlp.proj": [0.1, 0.02]})
    assert figures.progress(3, 1.25) == "layer 2/3: 1.2 s, relative error up to 0.02000 (mlp.proj)"


@pytest.mark.parametrize(
    ("asked", "cpu_max", "expected"),
    [
        (None, "max 100000", 1),
        (None, "max", 1),
        (None, "250000 100000", 2),
        (None, "30000 100000", 1),
        ("3", "250000 100000", 3),
    ],
)
def test_threads_are_those_asked_for_or_the_pods_limit(
    asked: str | None, cpu_max: str, expected: int
) -> None:
    assert quantize.threads(asked, cpu_max) == expected


def test_a_pod_computes_on_that_many_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quantize.stage, "run_stage", lambda *_: torch.get_num_threads())
    monkeypatch.setattr(quantize, "CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    assert quantize.main() == 2
    (tmp_path / "cpu.max").unlink()
    assert quantize.main() == 1


LAYERS = 9


def write_deep(source: Path, target: Path) -> None:
    """Write the model of `source` with its two layers repeated to LAYERS, in three shards."""
    target.mkdir()
    weights = load_file(source / "model.safetensors")
    deep = {name: value for name, value in weights.items() if ".layers." not in name}
    for index in range(LAYERS):
        old, new = f".layers.{index % 2}.", f".layers.{index}."
        deep |= {name.replace(old, new): value for name, value in weights.items() if old in name}
    shards = {name: f"model-0000{at % 3 + 1}-of-00003.safetensors" for at, name in enumerate(sorted(deep))}
    for shard in set(shards.values()):
        save_file({name: deep[name] for name in deep if shards[name] == shard}, target / shard)
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    config = json.loads((source / "config.json").read_text()) | {"num_hidden_layers": LAYERS}
    (target / "config.json").write_text(json.dumps(config))


def test_a_deep_model_in_shards_is_held_a_layer_at_a_time(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_deep(model_folder, tmp_path / "deep")
    loaded: list[weakref.ref[Block]] = []
    alive: list[int] = []
    load = Block.load

    def watched(weights: Weights, decoder: Decoder, index: int) -> Block:
        alive.append(sum(block() is not None for block in loaded))
        block = load(weights, decoder, index)
        loaded.append(weakref.ref(block))
        return block

    monkeypatch.setattr(quantize.Block, "load", watched)
    (tmp_path / "out").mkdir()
    quantize.quantize(tmp_path / "deep", tmp_path / "out", recipe(), [])
    # The one before goes when the next is there.
    assert alive == [0] + [1] * (LAYERS - 1)
    checkpoint = Checkpoint(tmp_path / "out")
    for index in (2, LAYERS - 1):
        assert np.array_equal(
            checkpoint.linear(index, "mlp.proj").packed, checkpoint.linear(index % 2, "mlp.proj").packed
        )


def test_a_shard_without_its_tensor_is_named(model_folder: Path, tmp_path: Path) -> None:
    write_deep(model_folder, tmp_path / "deep")
    shard = "model-00002-of-00003.safetensors"
    tensors = load_file(tmp_path / "deep" / shard)
    lost = min(name for name in tensors if ".layers.4." in name)
    save_file({name: value for name, value in tensors.items() if name != lost}, tmp_path / "deep" / shard)
    (tmp_path / "out").mkdir()
    with pytest.raises(Refused, match=f"{shard} has no {lost}; export the model again"):
        quantize.quantize(tmp_path / "deep", tmp_path / "out", recipe(), [])


def test_a_writer_left_incomplete_is_an_error(tmp_path: Path) -> None:
    specs = {"a": (np.dtype(np.float32), (2,)), "b": (np.dtype(np.float16), (3,))}
    with pytest.raises(ValueError, match=r"not written: \['b'\]"):
        with Writer(tmp_path / "x", specs) as writer:
            writer.write("a", np.ones(2))


def test_a_streamed_file_is_read_by_safetensors(tmp_path: Path) -> None:
    specs = {"a": (np.dtype(np.float32), (2,)), "b": (np.dtype(np.int8), (1, 3))}
    with Writer(tmp_path / "x", specs) as writer:
        writer.write("b", np.array([[1, 2, 3]]))
        writer.write("a", np.array([0.5, 1.5]))
    with safe_open(tmp_path / "x", framework="numpy") as file:
        assert file.get_tensor("a").tolist() == [0.5, 1.5]
        assert file.get_tensor("b").tolist() == [[1, 2, 3]]
