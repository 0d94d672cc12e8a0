"""Where config.json of a base model lies, and whether a run fits the model. No torch here."""

import json
from pathlib import Path
from typing import Any, get_args

from anneal_api.finetunejob import FineTuneJobSpec, Linear
from anneal_api.memory import ModelShape
from anneal_runtime.errors import Refused
from anneal_runtime.storage import exists, is_local, join, resolve
from anneal_trainers.data.sources import base_uri

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
