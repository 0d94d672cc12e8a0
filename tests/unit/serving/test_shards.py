"""The parts of a divided checkpoint make up the whole, and each is of whole groups."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from anneal_api.modeldeployment import Quantization
from anneal_runtime.errors import Refused
from anneal_serving import quantize, shards
from anneal_serving.checkpoint import Checkpoint

from .conftest import write_model

GROUP = 32


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("whole")
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    source = write_model(folder / "model", **config)
    recipe = Quantization.model_validate({"method": "rtn", "groupSize": GROUP})
    quantize.quantize(source, folder, recipe, [])
    return Checkpoint(folder)


def test_two_files_hold_everything_once(whole: Checkpoint, tmp_path: Path) -> None:
    shards.write(whole, tmp_path, 2)
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2))
    layer = "transformer.layers.1."
    for name, axis in (
        ("mlp.fc.weight", 0),
        ("attention.dense.weight", 1),
        ("mlp.proj.weights_scaling_factor", 1),
    ):
        joined = np.concatenate([first[layer + name], second[layer + name]], axis)
        assert np.array_equal(joined, whole.tensor(layer + name)), name
    bias = whole.tensor(f"{layer}attention.qkv.bias")
    assert np.array_equal(first[f"{layer}attention.qkv.bias"], bias[np.r_[0:64, 128:160, 192:224]])
    assert np.array_equal(second[f"{layer}attention.qkv.bias"], bias[np.r_[64:128, 160:192, 224:256]])
    assert np.array_equal(
        first[f"{layer}mlp.fc.prequant_scaling_factor"], second[f"{layer}mlp.fc.prequant_scaling_factor"]
    )


def test_full_precision_is_divided_as_four_bits_are(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model")
    (tmp_path / "whole").mkdir()
    quantize.quantize(source, tmp_path / "whole", Quantization(method="none"), [])
    whole = Checkpoint(tmp_path / "whole")
    shards.write(whole, tmp_path / "parts", 2)
    first, second = (load_file(tmp_path / f"parts/rank{rank}.safetensors") for rank in range(2))
    layer = "transformer.layers.1."
    for name, axis in (("mlp.fc", 0), ("mlp.proj", 1)):
        joined = np.concatenate([part[f"{layer}{name}.weight"] for part in (first, second)], axis)
        assert np.array_equal(joined, whole.full(1, name).half), name
    stacked = whole.full(1, "attention.qkv").half
    assert np.array_equal(first[f"{layer}attention.qkv.weight"], stacked[np.r_[0:64, 128:160, 192:224]])


def test_config_tells_the_ranks(whole: Checkpoint, tmp_path: Path) -> None:
    shards.write(whole, tmp_path, 2)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["mapping"] == {"world_size": 2, "tp_size": 2, "pp_size": 1}
    assert config["use_parallel_embedding"] is True
    assert config["hidden_size"] == whole.config["hidden_size"]


@pytest.mark.parametrize(
    ("change", "ranks", "group", "message"),
    [
        ({}, 3, 32, "tensorParallelSize: 3 does not divide the attention heads of 4"),
        ({}, 4, 32, "tensorParallelSize: 4 does not divide the key heads of 2"),
        ({"intermediate": 255}, 2, 32, "tensorParallelSize: 2 does not divide the intermediate size of 255"),
        ({"vocabulary": 511}, 2, 32, "tensorParallelSize: 2 does not divide the vocabulary of 511"),
        (
            {},
            2,
            128,
            "128 does not divide the 64 inputs of attention.dense on each of .*Size 2; use 64 or 32",
        ),
    ],
)
def test_what_does_not_divide_is_refused(
    whole: Checkpoint, change: dict[str, int], ranks: int, group: int, message: str
) -> None:
    with pytest.raises(Refused, match=message):
        replace(whole.decoder, **change).check_ranks(ranks, group)
