"""The sizes that config.json of a base model states, and which models can be trained. No torch here."""

from typing import Any

from anneal_api.memory import ModelShape
from anneal_runtime.errors import Refused

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles follow from a position alone: with `dynamic` and `longrope` they depend on the
longest sequence of the batch, so a row would be learned differently beside others."""


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
