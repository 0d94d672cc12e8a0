"""The checkpoint's layout against what NVIDIA's own exporter writes for the same weights.

The recorded file was made by tests/modelopt_export.py; the slow half of the tests makes it again with the exporter.
"""

import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tests import modelopt_export
from tests.modelopt_export import GROUP

from anneal_api.modeldeployment import Quantization
from anneal_runtime.errors import Refused
from anneal_serving import checkpoint, int4, quantize, rounding, shards, unified
from anneal_serving.checkpoint import Checkpoint
from anneal_serving.decoder import from_hugging_face

ROOT = Path(__file__).parents[3]
EXPORTER = ROOT / ".venv-modelopt/bin/python"
OTHER_PRECISION = {"logits_dtype"}
"""Ours are float32: the gate compares them."""
SHARED_TABLES = {"use_parallel_embedding"}
"""Says how tables are divided; with one accelerator, nothing."""
NAMED_AFTER_US = {"producer", "rotary_scaling"}
"""The latter is compared by itself: theirs carries transformers' dictionary whole."""
THEIRS_ALONE = {"residual_mlp", "bias", "rotary_pct", "rank", "decoder", "rmsnorm", "lm_head_bias"}
"""Keys at their defaults that the loader of 1.2 does not need of a Llama."""


@dataclass(frozen=True)
class Golden:
    """What ModelOpt wrote."""

    tensors: dict[str, np.ndarray]
    config: dict[str, dict[str, object]]
    digests: dict[str, str]


@pytest.fixture(scope="module", params=["recorded", pytest.param("made now", marks=pytest.mark.slow)])
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    path = Path(__file__).parent / "golden/modelopt.safetensors"
    if request.param == "made now":
        path = tmp_path_factory.mktemp("modelopt") / "made.safetensors"
        command = [EXPORTER, "-W", "ignore", ROOT / "tests/modelopt_export.py", path]
        subprocess.run(command, check=True, timeout=580, capture_output=True)
    with safe_open(path, framework="numpy") as file:
        facts = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no dict
    return Golden(tensors, json.loads(facts["config"]), json.loads(facts["sha256"]))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exporter's model as a folder."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "config.json").write_text(json.dumps(modelopt_export.CONFIG))
    save_file(modelopt_export.source_weights(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def ours(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Our checkpoint of that model."""
    target = tmp_path_factory.mktemp("ours")
    quantize.quantize(source, target, Quantization.model_validate({"method": "rtn", "groupSize": GROUP}), [])
    return Checkpoint(target)


@pytest.fixture(scope="module")
def theirs(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Their checkpoint under our reader."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "config.json").write_text(json.dumps(golden.config["one"]))
    save_file(golden.tensors, folder / "rank0.safetensors")
    return Checkpoint(folder)


def test_config_says_the_same(golden: Golden, ours: Checkpoint) -> None:
    written, expected = dict(ours.config), dict(golden.config["one"])
    # ModelOpt pads both tables to a multiple of 64 tokens, which only a quantised head needs; ours is not.
    assert (written.pop("vocab_size"), expected.pop("vocab_size")) == (16, 64)
    ignored = OTHER_PRECISION | SHARED_TABLES | NAMED_AFTER_US
    assert {k: v for k, v in written.items() if k not in ignored} == {
        k: v for k, v in expected.items() if k not in ignored | THEIRS_ALONE
    }
    scaling = expected["rotary_scaling"]
    assert isinstance(scaling, dict)
    assert written["rotary_scaling"] == {name: scaling[name] for name in ("type", "factor")}


def test_tensors_have_the_same_names_types_and_shapes(golden: Golden, ours: Checkpoint) -> None:
    specs = checkpoint.tensor_specs(ours.decoder, GROUP)
    for name, value in golden.tensors.items():
        dtype, shape = specs.pop(name)
        # The loader casts scales to the model's float16, in which ours are written.
        assert value.dtype == (np.float32 if name.endswith("weights_scaling_factor") else dtype), name
        assert value.shape == ((64, 64) if shape == (16, 64) else shape), name
    assert not specs


def test_our_reader_finds_the_weights_in_their_bytes(theirs: Checkpoint) -> None:
    restored = dict(theirs.hugging_face())
    for name, truth in modelopt_export.source_weights().items():
        error, magnitude = np.abs(restored[name][: len(truth)] - truth), np.abs(truth)
        assert error.mean() < 0.15 * magnitude.mean(), name


def test_every_weight_is_within_half_a_step_of_their_scale(golden: Golden, theirs: Checkpoint) -> None:
    weights = modelopt_export.source_weights()
    for ours_name, name in (("attention.dense", "self_attn.o_proj"), ("mlp.fc", "mlp.gate_proj")):
        linear = theirs.linear(0, ours_name)
        truth = weights[f"model.layers.0.{name}.weight"]
        steps = np.repeat(linear.scales, GROUP, 1) * linear.prequant
        # They round the scaled weight to float16 first: a few per cent of a step.
        assert (np.abs(linear.weight() - truth) <= 0.56 * steps).all(), name


def test_our_rounding_gives_their_nibbles_for_their_scales(theirs: Checkpoint) -> None:
    weights = modelopt_export.source_weights()
    for ours_name, name in (("mlp.proj", "mlp.down_proj"), ("mlp.gate", "mlp.up_proj")):
        linear = theirs.linear(0, ours_name)
        scaled = torch.from_numpy(weights[f"model.layers.0.{name}.weight"] / linear.prequant)
        found = rounding.nibbles(scaled.half().float(), torch.from_numpy(linear.scales)).flatten(1)
        expected = int4.unpack(linear.packed)
        different = found.numpy() != expected
        # A tie may fall either way.
        assert different.mean() < 0.01, name
        assert np.abs(found.numpy() - expected).max() <= 1
        assert np.array_equal(int4.pack(expected), linear.packed)


def test_two_accelerators_get_what_they_give_them(golden: Golden, theirs: Checkpoint) -> None:
    for rank in range(2):
        for name, value in golden.tensors.items():
            part = shards.part(theirs.decoder, name, value, rank, 2)
            assert digest(part) == golden.digests[f"rank{rank}/{name}"], name
    assert golden.config["two"]["mapping"] == {"world_size": 2, "tp_size": 2, "pp_size": 1}
    assert golden.config["two"]["use_parallel_embedding"] is True


def test_the_hugging_face_layout_is_theirs_bit_for_bit(
    golden: Golden, theirs: Checkpoint, tmp_path: Path
) -> None:
    # Their checkpoint gives fc and gate a scale each, though they share an input; their folder averages the two and
    # rounds again, so these two layers and the norm before them are not the checkpoint's.
    prefix = "transformer.layers.0.mlp."
    shared = {f"{prefix}gate.prequant_scaling_factor": golden.tensors[f"{prefix}fc.prequant_scaling_factor"]}
    save_file(golden.tensors | shared, tmp_path / "rank0.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(theirs.config))
    found = {
        # Tables without the padding.
        f"hf/{name}": digest(value[:16] if "embed" in name or "head" in name else value)
        for name, value in unified.tensors(Checkpoint(tmp_path))
    }
    expected = {name: value for name, value in golden.digests.items() if name.startswith("hf/")}
    assert found.keys() == expected.keys()
    again = ("gate_proj", "up_proj", "post_attention_layernorm")
    kept = [name for name in found if not any(part in name for part in again)]
    assert len(kept) == 16
    assert {name: found[name] for name in kept} == {name: expected[name] for name in kept}


def test_gate_and_up_with_scales_of_their_own_are_refused(theirs: Checkpoint) -> None:
    with pytest.raises(Refused, match="mlp.fc and mlp.gate share an input and not its scale"):
        list(unified.tensors(theirs))


def test_the_hugging_face_layout_announces_what_it_writes(ours: Checkpoint, tmp_path: Path) -> None:
    unified.write(ours, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert from_hugging_face(config) == ours.decoder
    assert config["quantization_config"]["quant_method"] == "modelopt"
    recorded = json.loads((tmp_path / "hf_quant_config.json").read_text())
    assert recorded["quantization"] == ours.config["quantization"]


def test_full_precision_in_hugging_face_layout_is_the_model(source: Path, tmp_path: Path) -> None:
    for name in ("checkpoint", "folder"):
        (tmp_path / name).mkdir()
    quantize.quantize(source, tmp_path / "checkpoint", Quantization(method="none"), [])
    unified.write(Checkpoint(tmp_path / "checkpoint"), tmp_path / "folder")
    found = load_file(tmp_path / "folder/model.safetensors")
    for name, value in modelopt_export.source_weights().items():
        assert np.array_equal(found.pop(name), value.astype(np.float16)), name
    assert not found
    assert "quantization_config" not in json.loads((tmp_path / "folder/config.json").read_text())
    assert not (tmp_path / "folder/hf_quant_config.json").exists()


def digest(value: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
