"""The same weights in ModelOpt's layout for Hugging Face folders, which TensorRT-LLM's PyTorch backend reads.

Nibbles and scales are the checkpoint's, bit for bit. That backend multiplies the inputs of o_proj and down_proj by their
pre-quant scale and no others (its W4A16_AWQ_LinearMethod reads none for joined layers), so the factors of query, key,
value, gate and up go into the norm before them. They are powers of two, so the product is exact.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from anneal_api.version import VERSION
from anneal_runtime.errors import Refused
from anneal_serving.checkpoint import EMBEDDING, FINAL_NORM, HEAD, Checkpoint, Full, Linear, Spec, Writer
from anneal_serving.decoder import Decoder
from anneal_serving.int4 import Array

CONFIG = "config.json"
QUANTIZATION = "hf_quant_config.json"
WEIGHTS = "model.safetensors"
_MODEL_TYPES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2"}


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Write config.json, model.safetensors and, of four bits, hf_quant_config.json of `checkpoint` into `folder`."""
    config = config_of(checkpoint.decoder)
    if checkpoint.group is not None:
        quantization = {"producer": _producer(), "quantization": checkpoint.config["quantization"]}
        (folder / QUANTIZATION).write_text(json.dumps(quantization, indent=2))
        config |= {"quantization_config": _marked()}
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    with Writer(folder / WEIGHTS, tensor_specs(checkpoint.decoder, checkpoint.group)) as writer:
        for name, value in tensors(checkpoint):
            writer.write(name, value)


def config_of(decoder: Decoder) -> dict[str, Any]:
    """Return Hugging Face's config.json of `decoder`."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": decoder.rope_theta}
    if decoder.rope_factor != 1:
        rope |= {"rope_type": "linear", "factor": decoder.rope_factor}
    return {
        "architectures": [decoder.architecture],
        "model_type": _MODEL_TYPES[decoder.architecture],
        "dtype": "float16",
        "vocab_size": decoder.vocabulary,
        "hidden_size": decoder.hidden,
        "intermediate_size": decoder.intermediate,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "head_dim": decoder.head_size,
        "max_position_embeddings": decoder.max_positions,
        "rms_norm_eps": decoder.epsilon,
        "rope_parameters": rope,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }


def _marked() -> dict[str, Any]:
    return {
        "quant_method": "modelopt",
        "quant_algo": "W4A16_AWQ",
        "ignore": ["lm_head"],
        "producer": _producer(),
    }


def _producer() -> dict[str, str]:
    return {"name": "anneal", "version": VERSION}


def tensor_specs(decoder: Decoder, group: int | None) -> dict[str, Spec]:
    """Return dtype and shape of every tensor that `tensors` yields."""
    half, table = np.dtype(np.float16), (decoder.vocabulary, decoder.hidden)
    specs: dict[str, Spec] = {"model.embed_tokens.weight": (half, table)}
    for index in range(decoder.layers):
        prefix = f"model.layers.{index}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            specs[f"{prefix}{name}.weight"] = (half, (decoder.hidden,))
        for name, (rows, width) in _layers(decoder).items():
            own_scale = name in ("self_attn.o_proj", "mlp.down_proj")
            if group is None:
                specs[f"{prefix}{name}.weight"] = (half, (rows, width))
            else:
                specs[f"{prefix}{name}.weight"] = (np.dtype(np.uint8), (rows // 2, width))
                specs[f"{prefix}{name}.weight_scale"] = (np.dtype(np.float32), (rows, width // group))
            if own_scale and group is not None:
                specs[f"{prefix}{name}.pre_quant_scale"] = (half, (width,))
            elif decoder.qkv_bias and name.startswith("self_attn") and not own_scale:
                specs[f"{prefix}{name}.bias"] = (half, (rows,))
    return specs | {"model.norm.weight": (half, (decoder.hidden,)), "lm_head.weight": (half, table)}


def _layers(decoder: Decoder) -> dict[str, tuple[int, int]]:
    sizes = {"q": decoder.query_size, "k": decoder.kv_size, "v": decoder.kv_size}
    joined = {f"self_attn.{name}_proj": (rows, decoder.hidden) for name, rows in sizes.items()}
    wide = {f"mlp.{name}_proj": (decoder.intermediate, decoder.hidden) for name in ("gate", "up")}
    return (
        joined
        | wide
        | {
            "self_attn.o_proj": (decoder.hidden, decoder.query_size),
            "mlp.down_proj": (decoder.hidden, decoder.intermediate),
        }
    )


def tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Array]]:
    """Yield every tensor of model.safetensors.

    Raises:
        Refused: gate and up have factors of their own, or a norm that its factor does not go into.
    """
    yield "model.embed_tokens.weight", checkpoint.tensor(EMBEDDING)
    layer = _full_layer if checkpoint.group is None else _layer
    for index in range(checkpoint.decoder.layers):
        for name, value in layer(checkpoint, index):
            yield f"model.layers.{index}.{name}", value
    yield "model.norm.weight", checkpoint.tensor(FINAL_NORM)
    yield "lm_head.weight", checkpoint.tensor(HEAD)


_FULL = {
    "self_attn.o_proj": "attention.dense",
    "mlp.gate_proj": "mlp.fc",
    "mlp.up_proj": "mlp.gate",
    "mlp.down_proj": "mlp.proj",
}


def _full_layer(checkpoint: Checkpoint, index: int) -> Iterator[tuple[str, Array]]:
    yield "input_layernorm.weight", checkpoint.norm(index, "input_layernorm")
    yield "post_attention_layernorm.weight", checkpoint.norm(index, "post_layernorm")
    stacked = checkpoint.full(index, "attention.qkv")
    ends = _ends(checkpoint.decoder)
    for name, part in zip("qkv", np.split(stacked.half, ends), strict=True):
        yield f"self_attn.{name}_proj.weight", part
    yield from _biases(stacked, ends)
    yield from ((f"{name}.weight", checkpoint.full(index, ours).half) for name, ours in _FULL.items())


def _ends(decoder: Decoder) -> list[int]:
    return [decoder.query_size, decoder.query_size + decoder.kv_size]


def _biases(qkv: Linear | Full, ends: list[int]) -> Iterator[tuple[str, Array]]:
    if qkv.bias is not None:
        for name, bias in zip("qkv", np.split(qkv.bias, ends), strict=True):
            yield f"self_attn.{name}_proj.bias", bias


def _layer(checkpoint: Checkpoint, index: int) -> Iterator[tuple[str, Array]]:
    qkv, gate, up = (checkpoint.linear(index, n) for n in ("attention.qkv", "mlp.fc", "mlp.gate"))
    if not np.array_equal(gate.prequant, up.prequant):
        raise Refused(
            "InvalidArtifact", f"layer {index}: mlp.fc and mlp.gate share an input and not its scale"
        )
    yield "input_layernorm.weight", folded(checkpoint.norm(index, "input_layernorm"), qkv.prequant)
    yield "post_attention_layernorm.weight", folded(checkpoint.norm(index, "post_layernorm"), gate.prequant)
    yield from _joined(qkv, _ends(checkpoint.decoder))
    for name, linear in (("gate", gate), ("up", up)):
        yield from _weight(f"mlp.{name}_proj", linear.packed, linear.scales)
    for name, ours in (("self_attn.o_proj", "attention.dense"), ("mlp.down_proj", "mlp.proj")):
        linear = checkpoint.linear(index, ours)
        yield from _weight(name, linear.packed, linear.scales)
        yield f"{name}.pre_quant_scale", linear.prequant


def _joined(qkv: Linear, ends: list[int]) -> Iterator[tuple[str, Array]]:
    bytes_ = np.split(qkv.packed, [end // 2 for end in ends])
    for name, packed, scales in zip("qkv", bytes_, np.split(qkv.scales, ends), strict=True):
        yield from _weight(f"self_attn.{name}_proj", packed, scales)
    yield from _biases(qkv, ends)


def _weight(name: str, packed: Array, scales: Array) -> Iterator[tuple[str, Array]]:
    yield f"{name}.weight", packed.view(np.uint8)
    yield f"{name}.weight_scale", scales.astype(np.float32)


def folded(norm: Array, prequant: Array) -> Array:
    """Return a norm's weight [in] that does what `prequant` did to its output, in float16."""
    product = norm.astype(np.float32) * prequant.astype(np.float32)
    with np.errstate(over="ignore"):
        half = product.astype(np.float16)
    if not np.isfinite(half).all():
        raise Refused(
            "OutOfRange", "a norm times its input scale does not fit float16; use tensorrt-llm-engine"
        )
    return half
