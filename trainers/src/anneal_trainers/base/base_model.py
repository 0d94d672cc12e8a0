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
        config = json.loads(filesystem.cat_file(path))
    except ValueError as error:
        raise Refused(
            "InvalidModel", f"spec.baseModel.uri: {uri}/config.json is no JSON: {error}; copy the model again"
        ) from error
    if not isinstance(config, dict):
        raise Refused(
            "InvalidModel", f"spec.baseModel.uri: {uri}/config.json is no JSON object; copy the model again"
        )
    return config


def shape_of(config: dict[str, Any]) -> ModelShape:
    """Return the sizes config.json states.

    Raises:
        Refused: a family, a rotary embedding or a quantisation that is not trained here, by its name; or a size
            that is not stated.
    """
    architecture = _architecture(config)
    if architecture not in ARCHITECTURES:
        raise Refused(
            "UnsupportedModel",
            f"spec.baseModel: architecture {architecture} is none of {', '.join(ARCHITECTURES)}; "
            "name a model of one of these",
        )
    _check_rope(config)
    if quantization := _section(config, "quantization_config"):
        raise Refused(
            "UnsupportedModel",
            f"spec.baseModel: the weights are quantised already ({quantization.get('quant_method', 'unnamed')}); "
            "name the model they were made from",
        )
    heads, hidden = _size(config, "num_attention_heads"), _size(config, "hidden_size")
    return ModelShape(
        architecture=architecture,
        layers=_size(config, "num_hidden_layers"),
        hidden=hidden,
        intermediate=_size(config, "intermediate_size"),
        heads=heads,
        kv_heads=_size(config, "num_key_value_heads", heads),
        head_size=_size(config, "head_dim", hidden // heads),
        vocabulary=_size(config, "vocab_size"),
        max_positions=_positions(config),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _architecture(config: dict[str, Any]) -> str:
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else str(named or "none")


def _size(config: dict[str, Any], name: str, default: int | None = None) -> int:
    """Return a size that config.json states, or `default` where it does not."""
    value = config.get(name)
    if value is None and default:
        return default
    if not isinstance(value, int) or value < 1:
        problem = (
            f"does not state {name}" if value is None else f"states {name} as {value!r}, which is no size"
        )
        raise Refused("InvalidModel", f"spec.baseModel: config.json {problem}; copy the model again")
    return value


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a part of config.json that has fields of its own; empty where it is not there."""
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise Refused(
            "InvalidModel",
            f"spec.baseModel: config.json states {name} as {value!r}, which is no object; copy the model again",
        )
    return value


def _positions(config: dict[str, Any]) -> int:
    """Return how many positions attend to all before them: within a sliding window, no more than it is wide."""
    positions = _size(config, "max_position_embeddings")
    sliding = config.get("use_sliding_window", config.get("model_type") == "mistral")
    return min(positions, _size(config, "sliding_window", positions)) if sliding else positions


def _check_rope(config: dict[str, Any]) -> None:
    # Before version 5 of transformers the field was rope_scaling, and before that its key was `type`.
    rope = _section(config, "rope_parameters") or _section(config, "rope_scaling")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise Refused(
            "UnsupportedModel",
            f"spec.baseModel: rotary embedding of type {kind} is none of {', '.join(ROPE_TYPES)}; "
            "name a model with one of these",
        )


def check_fits(spec: FineTuneJobSpec, shape: ModelShape) -> None:
    """Raise Refused where the spec asks for more than the model has."""
    if spec.data.max_length > shape.max_positions:
        raise Refused(
            "MaxLengthTooLong",
            f"spec.data.maxLength: {spec.data.max_length} exceeds the model's {shape.max_positions} positions; "
            "lower it",
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
