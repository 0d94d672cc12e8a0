"""OpenVINO IR of a decoder, built from a TensorRT-LLM checkpoint without torch.

The graph is the stateful one that OpenVINO GenAI turns into a paged one: inputs input_ids,
attention_mask, position_ids and beam_idx; keys and values in variables (ReadValue, Gather by beam_idx,
Concat, Assign) before ScaledDotProductAttention. Weights stay constants of float16 or of four bits: Convert, Multiply
by the groups' scales and Reshape before a MatMul is what the CPU plugin keeps compressed in memory.
Dimensions in comments: B sequences, L new tokens, T cached and new tokens, D head size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from anneal_serving import int4
from anneal_serving.checkpoint import EMBEDDING, FINAL_NORM, HEAD, Checkpoint, Full, Linear
from anneal_serving.decoder import Decoder
from anneal_serving.int4 import Array

MODEL = "openvino_model.xml"
_MASKED = float(np.finfo(np.float32).min)

Node = Any
"""An OpenVINO node or output; the package's stubs type both as Any in effect."""


def write(checkpoint: Checkpoint, folder: Path) -> None:
    """Write openvino_model.xml and .bin of `checkpoint` into `folder`."""
    ov.save_model(build(checkpoint), folder / MODEL, compress_to_fp16=False)


def build(checkpoint: Checkpoint, *, inner: bool = False) -> ov.Model:
    """Return the stateful model: token ids in, float32 logits [B, L, vocabulary] out.

    With `inner` every block's output [B, L, hidden] is a result too, after the logits and in order.
    """
    decoder = checkpoint.decoder
    inputs = _inputs()
    frame = _Frame.of(decoder, inputs)
    embedding = _half(checkpoint.tensor(EMBEDDING))
    hidden = ops.gather(embedding, ops.convert(inputs["input_ids"], "i32"), _integer(0))
    sinks: list[Node] = []
    blocks: list[Node] = []
    for index in range(decoder.layers):
        hidden = _block(checkpoint, index, hidden, frame, sinks)
        blocks.append(hidden)
    hidden = _norm(hidden, checkpoint.tensor(FINAL_NORM), decoder.epsilon)
    head = embedding if decoder.tied else _half(checkpoint.tensor(HEAD))
    logits = ops.matmul(hidden, head, False, True)
    logits.output(0).set_names({"logits"})
    results = [ops.result(logits, name="logits"), *(ops.result(block) for block in blocks if inner)]
    model = ov.Model(results, sinks, list(inputs.values()), "anneal")
    model.set_rt_info("anneal", ["producer"])
    return model


def _inputs() -> dict[str, Node]:
    shapes = {"input_ids": [-1, -1], "attention_mask": [-1, -1], "position_ids": [-1, -1], "beam_idx": [-1]}
    return {name: _parameter(name, shape) for name, shape in shapes.items()}


def _parameter(name: str, shape: list[int]) -> Node:
    node = ops.parameter(shape, np.int32 if name == "beam_idx" else np.int64, name=name)
    node.output(0).set_names({name})
    return node


@dataclass(frozen=True)
class _Frame:
    """What all blocks share: sizes, the rotation of this step's positions, the mask, the empty cache."""

    decoder: Decoder
    cosine: Node
    sine: Node
    mask: Node
    beams: Node
    empty: Node

    @classmethod
    def of(cls, decoder: Decoder, inputs: dict[str, Node]) -> "_Frame":
        cosine, sine = _rotation(decoder, inputs["position_ids"])
        batch = ops.gather(ops.shape_of(inputs["input_ids"]), _integers([0]), _integer(0))
        shape = ops.concat([batch, _integers([decoder.kv_heads, 0, decoder.head_size])], 0)
        return cls(
            decoder=decoder,
            cosine=cosine,
            sine=sine,
            mask=_mask(inputs["input_ids"], inputs["attention_mask"]),
            beams=inputs["beam_idx"],
            empty=ops.broadcast(_float(0.0), shape),
        )


def _block(checkpoint: Checkpoint, index: int, hidden: Node, frame: _Frame, sinks: list[Node]) -> Node:
    epsilon = checkpoint.decoder.epsilon
    normed = _norm(hidden, checkpoint.norm(index, "input_layernorm"), epsilon)
    attended = _attention(checkpoint.layer(index, "attention.qkv"), normed, frame, index, sinks)
    hidden = ops.add(hidden, _linear(checkpoint.layer(index, "attention.dense"), attended))
    normed = _norm(hidden, checkpoint.norm(index, "post_layernorm"), epsilon)
    gate = ops.swish(_linear(checkpoint.layer(index, "mlp.fc"), normed))
    gated = ops.multiply(gate, _linear(checkpoint.layer(index, "mlp.gate"), normed))
    return ops.add(hidden, _linear(checkpoint.layer(index, "mlp.proj"), gated))


def _attention(qkv: Linear | Full, hidden: Node, frame: _Frame, index: int, sinks: list[Node]) -> Node:
    decoder = frame.decoder
    sizes = [decoder.query_size, decoder.kv_size, decoder.kv_size]
    parts = ops.variadic_split(_linear(qkv, hidden), _integer(2), _integers(sizes))
    query = _rotate(_heads(parts.output(0), decoder.heads, decoder), frame)
    key = _rotate(_heads(parts.output(1), decoder.kv_heads, decoder), frame)
    value = _heads(parts.output(2), decoder.kv_heads, decoder)
    keys = _repeat(_cached(key, f"past_key_values.{index}.key", frame, sinks), decoder)
    values = _repeat(_cached(value, f"past_key_values.{index}.value", frame, sinks), decoder)
    attended = ops.scaled_dot_product_attention(query, keys, values, frame.mask)
    merged = ops.transpose(attended, _integers([0, 2, 1, 3]))
    return ops.reshape(merged, _integers([0, 0, decoder.query_size]), True)


def _heads(flat: Node, count: int, decoder: Decoder) -> Node:
    # [B, L, heads * D] -> [B, heads, L, D]
    split = ops.reshape(flat, _integers([0, 0, count, decoder.head_size]), True)
    return ops.transpose(split, _integers([0, 2, 1, 3]))


def _cached(new: Node, name: str, frame: _Frame, sinks: list[Node]) -> Node:
    """Append this step's keys or values [B, heads, L, D] to the variable `name`; return all of them."""
    shape = ov.PartialShape([-1, frame.decoder.kv_heads, -1, frame.decoder.head_size])
    past = ops.read_value(frame.empty, name, ov.Type.f32, shape)
    whole = ops.concat([ops.gather(past, frame.beams, _integer(0)), new], 2)
    sinks.append(ops.assign(whole, name))
    return whole


def _repeat(shared: Node, decoder: Decoder) -> Node:
    """Give every query head its keys: [B, kv heads, T, D] -> [B, heads, T, D]."""
    times = decoder.heads // decoder.kv_heads
    if times == 1:
        return shared
    # In this form both runtimes find the whole attention: the plugin, which then keeps the cache as it is told to, and GenAI.
    shape = _integers([1, 1, times, 1, 1])
    wide = ops.broadcast(ops.unsqueeze(shared, _integer(2)), shape, broadcast_spec="BIDIRECTIONAL")
    return ops.reshape(wide, _integers([0, decoder.heads, -1, decoder.head_size]), True)


def _rotation(decoder: Decoder, positions: Node) -> tuple[Node, Node]:
    """Return cosine and sine [B, 1, L, D] of every position's angles, in GPT-NeoX order (halves)."""
    exponents = np.arange(0, decoder.head_size, 2, dtype=np.float32) / decoder.head_size
    inverse = (decoder.rope_theta**-exponents / decoder.rope_factor).astype(np.float32)
    column = ops.convert(ops.unsqueeze(positions, _integer(2)), "f32")
    angles = ops.multiply(column, ops.constant(inverse.reshape(1, 1, -1)))
    both = ops.unsqueeze(ops.concat([angles, angles], 2), _integer(1))
    return ops.cos(both), ops.sin(both)


def _rotate(states: Node, frame: _Frame) -> Node:
    halves = ops.split(states, _integer(3), 2)
    turned = ops.concat([ops.negative(halves.output(1)), halves.output(0)], 3)
    return ops.add(ops.multiply(states, frame.cosine), ops.multiply(turned, frame.sine))


def _mask(input_ids: Node, attention_mask: Node) -> Node:
    """Return the additive mask [B, 1, L, T]: earlier positions of the same sequence that are not padding."""
    new = ops.gather(ops.shape_of(input_ids), _integer(1), _integer(0))
    total = ops.gather(ops.shape_of(attention_mask), _integer(1), _integer(0))
    rows = ops.unsqueeze(ops.range(ops.subtract(total, new), total, _integer(1), "i64"), _integer(1))
    columns = ops.unsqueeze(ops.range(_integer(0), total, _integer(1), "i64"), _integer(0))
    real = ops.unsqueeze(ops.convert(attention_mask, "boolean"), _integers([1, 2]))
    seen = ops.logical_and(ops.less_equal(columns, rows), real)
    return ops.select(seen, _float(0.0), _float(_MASKED))


def _norm(hidden: Node, weight: Array, epsilon: float) -> Node:
    mean = ops.reduce_mean(ops.power(hidden, _float(2.0)), _integers([-1]), True)
    inverse = ops.divide(_float(1.0), ops.sqrt(ops.add(mean, _float(epsilon))))
    return ops.multiply(ops.multiply(hidden, inverse), ops.constant(weight.astype(np.float32)))


def _linear(linear: Linear | Full, hidden: Node) -> Node:
    if isinstance(linear, Linear) and (linear.prequant != 1).any():
        hidden = ops.multiply(hidden, ops.constant(linear.prequant.astype(np.float32)))
    weight = _weight(linear) if isinstance(linear, Linear) else _half(linear.half)
    product = ops.matmul(hidden, weight, False, True)
    if linear.bias is None:
        return product
    return ops.add(product, ops.constant(linear.bias.astype(np.float32)))


def _weight(linear: Linear) -> Node:
    rows, groups = linear.scales.shape
    width = linear.packed.shape[1]
    packed = int4.pack_rows(int4.unpack(linear.packed))
    tensor = ov.Tensor(packed, [rows, groups, width // groups], ov.Type.i4)
    # shared_memory=False copies: the constant outlives the numpy buffer.
    nibbles = ops.convert(ov.op.Constant(tensor, shared_memory=False), "f32")
    scales = ops.convert(ops.constant(linear.scales[:, :, None]), "f32")
    return ops.reshape(ops.multiply(nibbles, scales), _integers([rows, width]), False)


def _half(table: Array) -> Node:
    """A float16 constant seen as float32."""
    return ops.convert(ops.constant(table), "f32")


def _constant(dtype: type) -> Callable[[Any], Node]:
    return lambda value: ops.constant(np.array(value, dtype))


_integer = _constant(np.int64)
_integers = _constant(np.int64)
_float = _constant(np.float32)
