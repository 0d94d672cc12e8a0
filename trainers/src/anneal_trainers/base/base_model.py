"""What config.json of a base model says, and which models can be trained. No torch here."""

import json
from pathlib import Path
from typing import Any, get_args

from anneal_api.finetunejob import FineTuneJobSpec, Linear
from anneal_api.memory import ModelShape
from anneal_runtime.errors import Refused
from anneal_runtime.storage import exists, is_local, join, resolve
from anneal_trainers.data.sources import base_uri

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles follow from a position alone: with `dynamic` and `longrope` they depend on the
longest sequence of the batch, so a row would be learned differently beside others."""
NF4_BLOCK = 64
LINEAR = get_args(Linear)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def read_config(uri: str) -> dict[str, Any]:
    """Return config.json of the model at `uri`.

    Raises:
        Refused: there is no such folder, or it holds no config.json.
    """
    if not exists(uri):
        raise Refused("ModelNotFound", f"spec.baseModel.uri: {uri} does not exist; check claim and path")
    filesystem, path = resolve(join(uri, "config.json"))
    if not filesystem.exists(path):
        raise Refused(
            "ModelNotFound",
            f"spec.baseModel.uri: {uri} holds no config.json; it must be a folder in Hugging Face layout "
            "(`python3 -m anneal_trainers import` makes one of a GGUF file)",
        )
    try:
        return dict(json.loads(filesystem.cat_file(path)))
    except ValueError as error:
        raise Refused(
            "InvalidModel", f"spec.baseModel.uri: {uri}/config.json is no JSON: {error}; copy the model again"
        ) from error


def shape_of(config: dict[str, Any]) -> ModelShape:
    """Return the sizes config.json states.

    Raises:
        Refused: a family, a rotary embedding or a quantisation that is not trained here, by its name; or a size
            that is not stated.
    """
    architecture = (config.get("architectures") or ["none"])[0]
    if architecture not in ARCHITECTURES:
        raise Refused(
            "UnsupportedModel",
            f"spec.baseModel: architecture {architecture} is none of {', '.join(ARCHITECTURES)}",
        )
    _check_rope(config)
    if quantization := config.get("quantization_config"):
        raise Refused(
            "UnsupportedModel",
            f"spec.baseModel: the weights are quantised already ({quantization.get('quant_method', 'unnamed')}); "
            "name the model they were made from",
        )
    try:
        return _sizes(config)
    except KeyError as error:
        raise Refused(
            "InvalidModel",
            f"spec.baseModel: config.json does not state {error.args[0]}; copy the model again",
        ) from error


def _sizes(config: dict[str, Any]) -> ModelShape:
    heads = config["num_attention_heads"]
    return ModelShape(
        architecture=config["architectures"][0],
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_size=config.get("head_dim") or config["hidden_size"] // heads,
        vocabulary=config["vocab_size"],
        max_positions=_positions(config),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _positions(config: dict[str, Any]) -> int:
    """Return how many positions attend to all before them: within a sliding window, no more than it is wide."""
    sliding = config.get("use_sliding_window", config["model_type"] == "mistral")
    window = config.get("sliding_window") if sliding else None
    positions: int = config["max_position_embeddings"]
    return min(positions, window or positions)


def _check_rope(config: dict[str, Any]) -> None:
    # Before version 5 of transformers the field was rope_scaling, and before that its key was `type`.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise Refused(
            "UnsupportedModel",
            f"spec.baseModel: rotary embedding of type {kind} is none of {', '.join(ROPE_TYPES)}",
        )


def check_fits(spec: FineTuneJobSpec, shape: ModelShape) -> None:
    """Raise Refused where the spec asks for more than the model has."""
    if spec.data.max_length > shape.max_positions:
        raise Refused(
            "MaxLengthTooLong",
            f"spec.data.maxLength: {spec.data.max_length} exceeds the model's {shape.max_positions} positions",
        )
    if spec.adapter.type == "qlora":
        _check_blocks(shape)


def _check_blocks(shape: ModelShape) -> None:
    """Raise Refused where a row of a linear layer is no whole number of NF4's blocks.

    A scale would be shared by two outputs, and bitsandbytes' faster kernels take whole blocks only.
    """
    inputs = {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_attention_heads x head_dim": shape.heads * shape.head_size,
    }
    for name, size in inputs.items():
        if size % NF4_BLOCK:
            raise Refused(
                "UnsupportedModel",
                f"spec.baseModel: {name} is {size}, no multiple of {NF4_BLOCK}, the block of NF4; "
                "set spec.adapter.type to lora",
            )


def tokenizer_folder(spec: FineTuneJobSpec, cache: Path) -> Path:
    """Return a local folder with the model's tokenizer files; only those are copied from a remote store."""
    uri = base_uri(spec.base_model)
    filesystem, path = resolve(uri)
    if is_local(uri):
        return Path(path)
    folder = cache / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if filesystem.exists(f"{path}/{name}"):
            filesystem.get_file(f"{path}/{name}", str(folder / name))
    return folder
