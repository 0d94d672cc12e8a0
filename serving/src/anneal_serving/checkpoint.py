"""TensorRT-LLM's checkpoint format: config.json and rank0.safetensors, written as a stream, read by name.

The one artifact of a deployment: trtllm-build reads it as it is, the OpenVINO builder and the
gate read it through `Checkpoint`. Layout and key names are those of TensorRT-LLM 1.2.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from safetensors import safe_open

from anneal_api.version import VERSION
from anneal_runtime import tensor_file
from anneal_serving import int4
from anneal_serving.decoder import Decoder
from anneal_serving.int4 import Array

CONFIG = "config.json"
WEIGHTS = "rank0.safetensors"
EMBEDDING = "transformer.vocab_embedding.weight"
HEAD = "lm_head.weight"
FINAL_NORM = "transformer.ln_f.weight"

_CODES = {
    np.dtype(np.float16): "F16",
    np.dtype(np.float32): "F32",
    np.dtype(np.int8): "I8",
    np.dtype(np.uint8): "U8",
}


def config_of(decoder: Decoder, group: int | None) -> dict[str, Any]:
    """Return config.json's content for `decoder` quantised in groups of `group`, or in float16."""
    scaling = {"type": "linear", "factor": decoder.rope_factor} if decoder.rope_factor != 1 else None
    config = {
        "producer": {"name": "anneal", "version": VERSION},
        "architecture": decoder.architecture,
        "dtype": "float16",
        "logits_dtype": "float32",
        "vocab_size": decoder.vocabulary,
        "max_position_embeddings": decoder.max_positions,
        "hidden_size": decoder.hidden,
        "intermediate_size": decoder.intermediate,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "head_size": decoder.head_size,
        "hidden_act": "silu",
        "norm_epsilon": decoder.epsilon,
        "position_embedding_type": "rope_gpt_neox",
        "rotary_base": decoder.rope_theta,
        "rotary_scaling": scaling,
        "use_parallel_embedding": False,
        "embedding_sharding_dim": 0,
        # Both tables are always in the file: the loader of 1.2 asks for both, and TensorRT keeps equal
        # constants once.
        "share_embedding_table": False,
        "mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1},
        "quantization": _quantization(group),
    }
    return config | ({"qwen_type": "qwen2"} if decoder.qkv_bias else {})


def _quantization(group: int | None) -> dict[str, Any]:
    if group is None:
        return {"quant_algo": None, "kv_cache_quant_algo": None}
    return {
        "quant_algo": "W4A16_AWQ",
        "kv_cache_quant_algo": None,
        "group_size": group,
        "has_zero_point": False,
        "pre_quant_scale": True,
        "exclude_modules": ["lm_head"],
    }


def decoder_of(config: dict[str, Any], tied: bool) -> Decoder:
    """Return the decoder that a checkpoint's config.json describes."""
    return Decoder(
        architecture=config["architecture"],
        vocabulary=config["vocab_size"],
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_size=config["head_size"],
        max_positions=config["max_position_embeddings"],
        epsilon=config["norm_epsilon"],
        rope_theta=config["rotary_base"],
        rope_factor=(config["rotary_scaling"] or {}).get("factor", 1.0),
        tied=tied,
        qkv_bias=config["architecture"] == "Qwen2ForCausalLM",
    )


Spec = tuple[np.dtype[Any], tuple[int, ...]]


def tensor_specs(decoder: Decoder, group: int | None) -> dict[str, Spec]:
    """Return dtype and shape of every tensor, in the order in which they are written; no group is float16."""
    half = np.dtype(np.float16)
    specs: dict[str, Spec] = {EMBEDDING: (half, (decoder.vocabulary, decoder.hidden))}
    for index in range(decoder.layers):
        prefix = f"transformer.layers.{index}."
        specs[f"{prefix}input_layernorm.weight"] = (half, (decoder.hidden,))
        specs[f"{prefix}post_layernorm.weight"] = (half, (decoder.hidden,))
        for name, (rows, width) in decoder.linears().items():
            if group is None:
                specs[f"{prefix}{name}.weight"] = (half, (rows, width))
                continue
            specs[f"{prefix}{name}.weight"] = (np.dtype(np.int8), (rows // 2, width))
            specs[f"{prefix}{name}.weights_scaling_factor"] = (half, (rows, width // group))
            specs[f"{prefix}{name}.prequant_scaling_factor"] = (half, (width,))
        if decoder.qkv_bias:
            specs[f"{prefix}attention.qkv.bias"] = (half, (decoder.linears()["attention.qkv"][0],))
    specs[FINAL_NORM] = (half, (decoder.hidden,))
    specs[HEAD] = (half, (decoder.vocabulary, decoder.hidden))
    return specs


class Writer:
    """Writes a safetensors file tensor by tensor, so that a 33B checkpoint needs one layer of memory.

    The format begins with all shapes, so they are given first; tensors may follow in any order.
    """

    def __init__(self, path: Path, specs: dict[str, Spec]) -> None:
        first, self._starts = tensor_file.begin(
            {n: tensor_file.Spec(_CODES[dtype], dtype.itemsize, shape) for n, (dtype, shape) in specs.items()}
        )
        self._specs, self._left = specs, set(specs)
        self._stream: BinaryIO = path.open("wb")
        self._stream.write(first)

    def write(self, name: str, value: Array) -> None:
        """Write one tensor, cast to the dtype it was announced with."""
        dtype, shape = self._specs[name]
        if value.shape != shape:
            raise ValueError(f"{name} has shape {value.shape}, announced was {shape}")
        self._stream.seek(self._starts[name])
        self._stream.write(np.ascontiguousarray(value.astype(dtype, copy=False)).data)
        self._left.discard(name)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        if kind is None and self._left:
            raise ValueError(f"tensors announced and not written: {sorted(self._left)}")


@dataclass(frozen=True)
class Linear:
    """A quantised layer as stored: see `int4` for the meaning of the parts."""

    packed: Array
    scales: Array
    prequant: Array
    bias: Array | None

    def weight(self) -> Array:
        """Return the float32 weight [out, in] that this layer stands for."""
        return int4.dequantize(self.packed, self.scales, self.prequant)


@dataclass(frozen=True)
class Full:
    """A layer in full precision: float16 [out, in]."""

    half: Array
    bias: Array | None

    def weight(self) -> Array:
        """Return the weight [out, in] in float32."""
        return self.half.astype(np.float32)


class Checkpoint:
    """A checkpoint on disk; tensors are read when asked for."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / CONFIG).read_text())
        self._file = safe_open(folder / WEIGHTS, framework="numpy")
        self.decoder = decoder_of(self.config, tied=np.array_equal(self.tensor(EMBEDDING), self.tensor(HEAD)))
        quantized = self.config["quantization"]["quant_algo"] is not None
        self.group = int(self.config["quantization"]["group_size"]) if quantized else None

    def tensor(self, name: str) -> Array:
        """Return one tensor as stored."""
        value: Array = self._file.get_tensor(name)  # type: ignore[no-untyped-call]
        return value

    def norm(self, layer: int, name: str) -> Array:
        """Return a layer's norm weight, `input_layernorm` or `post_layernorm`."""
        return self.tensor(f"transformer.layers.{layer}.{name}.weight")

    def layer(self, layer: int, name: str) -> Linear | Full:
        """Return a linear layer as stored, such as `attention.qkv`."""
        if self.group is not None:
            return self.linear(layer, name)
        return self.full(layer, name)

    def full(self, layer: int, name: str) -> Full:
        """Return a layer of a checkpoint in full precision."""
        return Full(self.tensor(f"transformer.layers.{layer}.{name}.weight"), self._bias(layer, name))

    def linear(self, layer: int, name: str) -> Linear:
        """Return a layer of a quantised checkpoint, such as `attention.qkv`."""
        prefix = f"transformer.layers.{layer}.{name}."
        return Linear(
            packed=self.tensor(f"{prefix}weight"),
            scales=self.tensor(f"{prefix}weights_scaling_factor"),
            prequant=self.tensor(f"{prefix}prequant_scaling_factor"),
            bias=self._bias(layer, name),
        )

    def _bias(self, layer: int, name: str) -> Array | None:
        biased = name == "attention.qkv" and self.decoder.qkv_bias
        return self.tensor(f"transformer.layers.{layer}.{name}.bias") if biased else None

    def hugging_face(self) -> Iterator[tuple[str, Array]]:
        """Yield the reconstructed float32 weights under Hugging Face's names; the way to compare or to leave."""
        yield "model.embed_tokens.weight", self.tensor(EMBEDDING).astype(np.float32)
        for index in range(self.decoder.layers):
            for name, value in self._layer(index):
                yield f"model.layers.{index}.{name}", value
        yield "model.norm.weight", self.tensor(FINAL_NORM).astype(np.float32)
        yield "lm_head.weight", self.tensor(HEAD).astype(np.float32)

    def _layer(self, index: int) -> Iterator[tuple[str, Array]]:
        yield "input_layernorm.weight", self.norm(index, "input_layernorm").astype(np.float32)
        yield "post_attention_layernorm.weight", self.norm(index, "post_layernorm").astype(np.float32)
        qkv = self.layer(index, "attention.qkv")
        at = [self.decoder.query_size, self.decoder.query_size + self.decoder.kv_size]
        parts = zip("qkv", np.split(qkv.weight(), at), strict=True)
        yield from ((f"self_attn.{name}_proj.weight", part) for name, part in parts)
        if qkv.bias is not None:
            biases = zip("qkv", np.split(qkv.bias.astype(np.float32), at), strict=True)
            yield from ((f"self_attn.{name}_proj.bias", part) for name, part in biases)
        yield "self_attn.o_proj.weight", self.layer(index, "attention.dense").weight()
        yield "mlp.gate_proj.weight", self.layer(index, "mlp.fc").weight()
        yield "mlp.up_proj.weight", self.layer(index, "mlp.gate").weight()
        yield "mlp.down_proj.weight", self.layer(index, "mlp.proj").weight()
