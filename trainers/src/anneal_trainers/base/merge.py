"""The adapter merged into the weights it was trained on: the dequantised NF4 ones, cast once.

Merging into the original weights, or into four bits, gives a model nobody has trained or measured. Two gates
stand before anything is published, both against the adapter model in float32:

- Parity: the merged float32 model gives its logits, up to PARITY_LIMIT. On SmolLM2-135M (logits up to 47) they
  differ by 6e-5, nearly all of it float32 arithmetic in 30 layers: the merged weights' own share is 1.3e-5 (2.6e-5
  were B A added in float32; one run, 2026-11-21). In deeper models arithmetic alone may exceed the limit. Then the
  same comparison in float64 is the judge, by the same limit: no arithmetic is left there, only the weights.
- Rounding: the weights cast to bf16 diverge from it (mean KL of the next token) at most KL_LIMIT times as much
  as rounding the weights it was trained on does.

Memory: the base as it was trained, one whole model in float32, and one layer in float64. For 33B weights
that is 17 + 132 GB and a few more, so such a merge is done on a CPU with 192 GB.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from torch.nn import functional

from anneal_trainers.base import added_tokens, attention
from anneal_trainers.base.libraries import bitsandbytes, peft
from anneal_trainers.base.model import hidden_states
from anneal_trainers.base.weights import quantized_layers
from anneal_trainers.data.batches import Batch

PARITY_LIMIT = 1e-4
"""Largest logit difference between adapter model and merged model."""
KL_LIMIT = 2.0
OFF_GRID = 4 / 3
"""Factor that takes weights off bf16's grid, see `_rounded`."""
CHUNK = 128
"""Positions whose logits exist at one time."""


class ParityError(RuntimeError):
    """The merged model does not compute what was trained."""


@dataclass(frozen=True)
class Parity:
    """The largest logit difference found, and the arithmetic it was found in."""

    difference: float
    arithmetic: str = "float32"


def merged_model(peft_model: Any) -> Any:
    """Return a plain float32 model that computes what `peft_model` (in float32) computes."""
    return _plain_model(peft_model, rounded=False)


def rounded_model(peft_model: Any) -> Any:
    """Return a plain float32 model of the base's weights rounded to bf16 under the adapter, which is exact."""
    return _plain_model(peft_model, rounded=True)


def _plain_model(peft_model: Any, rounded: bool) -> Any:
    base = peft_model.get_base_model()
    added_tokens.write_into_embeddings(base)
    config = transformers.AutoConfig.for_model(**_plain_config(base.config))
    with torch.device("meta"):
        plain: Any = transformers.AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=torch.float32, attn_implementation=attention.IMPLEMENTATION
        )
    plain.load_state_dict(merged_weights(base, rounded=rounded), assign=True, strict=False)
    plain.tie_weights()
    _refresh_buffers(plain, base)
    return plain.eval().requires_grad_(False)


def merged_weights(base: Any, *, rounded: bool = False) -> dict[str, torch.Tensor]:
    """Return the float32 weights of a base with an adapter inside, W + scale * B A, by their usual names.

    `rounded`: W, and what has no adapter, rounded to bf16 first.
    """
    weights = {}
    for name, module in base.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            weight = _plain_weight(module.base_layer)
            weights[f"{name}.weight"] = ((_rounded(weight) if rounded else weight) + _delta(module)).float()
            if module.base_layer.bias is not None:
                weights[f"{name}.bias"] = module.base_layer.bias.detach().float().clone()
        elif "lora_" not in name and "token_adapter" not in name and not name.endswith("base_layer"):
            own = _own_weights(name, module)
            weights |= {n: w.bfloat16().float() for n, w in own.items()} if rounded else own
    return weights


def _rounded(weight: torch.Tensor) -> torch.Tensor:
    """Return weights with errors as rounding to bf16 makes them.

    A base stored in bf16 lies on that grid, and would show no error where the merged weights, off it, must.
    """
    return (weight * OFF_GRID).bfloat16().float() / OFF_GRID


def _own_weights(name: str, module: Any) -> dict[str, torch.Tensor]:
    own = dict(module.named_parameters(recurse=False))
    return {
        f"{name}.{part}": _plain_weight(module) if part == "weight" else p.detach().float().clone()
        for part, p in own.items()
    }


def _plain_weight(layer: Any) -> torch.Tensor:
    weight: torch.Tensor = layer.weight
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.detach().float().clone()
    plain: torch.Tensor = bitsandbytes.functional.dequantize_4bit(weight.data, state)
    return plain.float()


def _delta(module: Any) -> torch.Tensor:
    a = module.lora_A["default"].weight.detach().double()
    b = module.lora_B["default"].weight.detach().double()
    delta: torch.Tensor = (b @ a) * module.scaling["default"]
    return delta


def _plain_config(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_pre_quantization_dtype"):
        values.pop(name, None)
    return values


def _refresh_buffers(merged: Any, base: Any) -> None:
    """Take the buffers that are computed and not saved (rotary frequencies) from the loaded base."""
    for name, buffer in base.named_buffers():
        owner, _, leaf = name.rpartition(".")
        if (
            "lora_" not in name
            and "token_adapter" not in name
            and leaf in merged.get_submodule(owner)._buffers
        ):
            merged.get_submodule(owner)._buffers[leaf] = buffer.clone()


def check_parity(peft_model: Any, merged: Any, batch: Batch) -> Parity:
    """Return how far the merged model is from the adapter model on a batch, both in float32.

    Raises:
        ParityError: farther than PARITY_LIMIT in float32 and in float64 too.
    """
    found = Parity(parity(peft_model, merged, batch))
    if not found.difference <= PARITY_LIMIT:
        with in_float64(peft_model), in_float64(merged):
            found = Parity(parity(peft_model, merged, batch), "float64")
    if not found.difference <= PARITY_LIMIT:
        raise ParityError(
            f"logits of the merged model differ from the trained one's by {found.difference:.2e} in "
            f"{found.arithmetic}; {PARITY_LIMIT:.0e} is allowed, so nothing is published"
        )
    return found


@torch.no_grad()
def parity(peft_model: Any, merged: Any, batch: Batch) -> float:
    """Return the largest difference of any logit of a batch, at the positions before its targets."""
    worst = 0.0
    # The head is the same in both: states are subtracted before it, so its own rounding is not counted.
    states = hidden_states(peft_model, batch) - hidden_states(merged, batch)
    head = merged.get_output_embeddings().weight.to(states.dtype)
    for part in torch.split(batch.before, CHUNK):
        found = float((states[part] @ head.T).abs().max())
        worst = found if math.isnan(found) else max(worst, found)
    return worst


@contextmanager
def in_float64(model: Any) -> Iterator[None]:
    """Let a float32 model compute in float64, where each layer's weights are widened only while it computes."""
    decoder = _plain(model).get_decoder()
    hooks = [decoder.embed_tokens.register_forward_hook(lambda _module, _args, states: states.double())]
    for part in [*decoder.layers, decoder.norm]:
        hooks.append(part.register_forward_pre_hook(lambda module, _: _convert(module, torch.float64)))
        hooks.append(part.register_forward_hook(lambda module, *_: _convert(module, torch.float32)))
    # These know no float64: the norm takes its root mean square in float32, the kernels of NF4 give wrong numbers.
    norms = [module for module in decoder.modules() if hasattr(module, "variance_epsilon")]
    quantized = list(quantized_layers(decoder).values())
    for module in norms:
        module.forward = partial(_norm, module)
    for module in quantized:
        module.forward = partial(_dequantized, module)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module in [*norms, *quantized]:
            del module.forward


def _norm(norm: Any, states: torch.Tensor) -> torch.Tensor:
    return functional.rms_norm(states, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _dequantized(layer: Any, states: torch.Tensor) -> torch.Tensor:
    return functional.linear(states, _plain_weight(layer).to(states.dtype), layer.bias)


def _convert(part: Any, dtype: torch.dtype) -> None:
    for parameter in part.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


@torch.no_grad()
def divergence(reference: Any, model: Any, batch: Batch) -> float:
    """Return the mean KL divergence of `model` from `reference` at the positions before a batch's targets, in nats."""
    states = [hidden_states(m, batch)[batch.before] for m in (reference, model)]
    heads = [_plain(m).get_output_embeddings().weight for m in (reference, model)]
    total = 0.0
    for parts in zip(*(torch.split(s, CHUNK) for s in states), strict=True):
        ours, theirs = ((s @ head.T).double().log_softmax(-1) for s, head in zip(parts, heads, strict=True))
        total += float(functional.kl_div(theirs, ours, reduction="sum", log_target=True))
    return total / len(batch.before)


def _plain(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, peft.PeftModel) else model


def check_rounding(published: float, alone: float) -> None:
    """Compare the divergence of the weights to publish with that of rounding alone.

    Raises:
        ParityError: it is more than KL_LIMIT times as large.
    """
    if not published <= KL_LIMIT * alone:
        raise ParityError(
            f"the model in bf16 diverges from the trained one by {published:.2e} nats a token; rounding alone "
            f"makes {alone:.2e}, and {KL_LIMIT:g} times that is allowed, so nothing is published"
        )
