"""One decoder block in torch, float32: enough to carry rows through a model, or through its checkpoint, layer by layer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from anneal_runtime.errors import Refused
from anneal_serving.checkpoint import EMBEDDING, FINAL_NORM, HEAD, Checkpoint
from anneal_serving.decoder import Decoder
from anneal_serving.hugging_face import Folder
from anneal_serving.int4 import Array

See = Callable[[str, Tensor], None]
"""Told a layer's name and its input [tokens, in], before the layer runs."""


class Weights:
    """A model's tensors on disk, read one by one to float32."""

    def __init__(self, path: Path, folder: Folder, device: torch.device) -> None:
        self._path, self._folder, self._device = path, folder, device

    def tensor(self, name: str) -> Tensor:
        """Return one tensor by its Hugging Face name."""
        shard = self._folder.shard(name)
        with safe_open(self._path / shard, framework="pt") as file:
            if name not in file.keys():  # noqa: SIM118 - safe_open is no dict
                raise Refused("MissingWeights", f"{shard} has no {name}; export the model again")
            value: Tensor = file.get_tensor(name)
        return value.to(self._device, torch.float32)


@dataclass(frozen=True)
class Block:
    """The weights of one block; `linears` by TensorRT-LLM's names, query, key and value stacked."""

    input_norm: Tensor
    post_norm: Tensor
    linears: dict[str, Tensor]
    qkv_bias: Tensor | None

    @classmethod
    def load(cls, weights: Weights, decoder: Decoder, index: int) -> "Block":
        """Read block `index`."""
        prefix = f"model.layers.{index}."

        def read(*names: str) -> Tensor:
            return torch.cat([weights.tensor(prefix + name) for name in names])

        attention = [f"self_attn.{part}_proj" for part in "qkv"]
        return cls(
            input_norm=read("input_layernorm.weight"),
            post_norm=read("post_attention_layernorm.weight"),
            linears={
                "attention.qkv": read(*(f"{name}.weight" for name in attention)),
                "attention.dense": read("self_attn.o_proj.weight"),
                "mlp.fc": read("mlp.gate_proj.weight"),
                "mlp.gate": read("mlp.up_proj.weight"),
                "mlp.proj": read("mlp.down_proj.weight"),
            },
            qkv_bias=read(*(f"{name}.bias" for name in attention)) if decoder.qkv_bias else None,
        )

    @classmethod
    def restored(cls, checkpoint: Checkpoint, index: int) -> "Block":
        """Return block `index` of the weights that a checkpoint stands for."""
        linears = {name: checkpoint.layer(index, name) for name in checkpoint.decoder.linears()}
        bias = linears["attention.qkv"].bias
        return cls(
            input_norm=_float(checkpoint.norm(index, "input_layernorm")),
            post_norm=_float(checkpoint.norm(index, "post_layernorm")),
            linears={name: torch.from_numpy(linear.weight()) for name, linear in linears.items()},
            qkv_bias=None if bias is None else _float(bias),
        )

    def forward(self, decoder: Decoder, hidden: Tensor, see: See) -> Tensor:
        """Carry one row [tokens, hidden] through the block."""
        normed = _norm(hidden, self.input_norm, decoder.epsilon)
        see("attention.qkv", normed)
        attended = _attend(decoder, functional.linear(normed, self.linears["attention.qkv"], self.qkv_bias))
        see("attention.dense", attended)
        hidden = hidden + attended @ self.linears["attention.dense"].T
        normed = _norm(hidden, self.post_norm, decoder.epsilon)
        see("mlp.fc", normed)
        gate = functional.silu(normed @ self.linears["mlp.fc"].T)
        gated = gate * (normed @ self.linears["mlp.gate"].T)
        see("mlp.proj", gated)
        return hidden + gated @ self.linears["mlp.proj"].T


@torch.inference_mode()
def states(checkpoint: Checkpoint, ids: Array) -> list[Array]:
    """Return a checkpoint's logits over `ids` [tokens, vocabulary], and the output of every block [tokens, hidden]."""
    decoder = checkpoint.decoder
    hidden, found = _float(checkpoint.tensor(EMBEDDING)[ids]), []
    for index in range(decoder.layers):
        hidden = Block.restored(checkpoint, index).forward(decoder, hidden, lambda *_: None)
        found.append(hidden.numpy())
    normed = _norm(hidden, _float(checkpoint.tensor(FINAL_NORM)), decoder.epsilon)
    return [(normed @ _float(checkpoint.tensor(HEAD)).T).numpy(), *found]


def _float(value: Array) -> Tensor:
    return torch.from_numpy(value.astype(np.float32))


def _attend(decoder: Decoder, qkv: Tensor) -> Tensor:
    sizes = [decoder.query_size, decoder.kv_size, decoder.kv_size]
    query, key, value = (_heads(part, decoder.head_size) for part in torch.split(qkv, sizes, dim=1))
    times = decoder.heads // decoder.kv_heads
    keys = _rotate(key, decoder).repeat_interleave(times, 0)
    values = value.repeat_interleave(times, 0)
    attended = functional.scaled_dot_product_attention(_rotate(query, decoder), keys, values, is_causal=True)
    return attended.transpose(0, 1).flatten(1)


def _heads(flat: Tensor, size: int) -> Tensor:
    return flat.reshape(len(flat), -1, size).transpose(0, 1)


def _rotate(states: Tensor, decoder: Decoder) -> Tensor:
    size, device = decoder.head_size, states.device
    exponents = torch.arange(0, size, 2, device=device) / size
    positions = torch.arange(states.shape[1], device=device) / decoder.rope_factor
    angles = torch.outer(positions, decoder.rope_theta**-exponents).repeat(1, 2)
    first, second = states.chunk(2, dim=-1)
    return states * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()


def _norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + epsilon) * weight
