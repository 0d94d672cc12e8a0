"""The adapter merged into the weights it was trained on: the dequantised NF4 ones, cast once.

Merging into the original weights, or into four bits, gives a model nobody has trained or measured. The
merged float32 model must agree with the adapter model logit by logit before anything is published. On
SmolLM2-135M (logits up to 47) they differ by 6e-5, nearly all of it float32 arithmetic in 30 layers: computed in
float64, the merged weights' own share is 1.3e-5 (2.6e-5 were B A added in float32; one run, 2026-11-21).
"""

import math
from typing import Any

import bitsandbytes.functional
import torch
import transformers

from anneal_trainers.batches import Batch
from anneal_trainers.model import hidden_states

PARITY_LIMIT = 1e-4
"""Largest logit difference between adapter model and merged model, both in float32."""


class ParityError(RuntimeError):
    """The merged model does not compute what was trained."""


def merged_model(peft_model: Any) -> Any:
    """Return a plain float32 model that computes what `peft_model` (in float32) computes."""
    base = peft_model.get_base_model()
    config = transformers.AutoConfig.for_model(**_plain_config(base.config))
    with torch.device("meta"):
        merged: Any = transformers.AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=torch.float32, attn_implementation="sdpa"
        )
    merged.load_state_dict(merged_weights(base), assign=True, strict=False)
    merged.tie_weights()
    _refresh_buffers(merged, base)
    return merged.eval().requires_grad_(False)


def merged_weights(base: Any) -> dict[str, torch.Tensor]:
    """Return the float32 weights of a base with an adapter inside, W + scale * B A, by their usual names."""
    weights = {}
    for name, module in base.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            weights[f"{name}.weight"] = (_plain_weight(module.base_layer) + _delta(module)).float()
            if module.base_layer.bias is not None:
                weights[f"{name}.bias"] = module.base_layer.bias.detach().float().clone()
        elif "lora_" not in name and not name.endswith("base_layer"):
            weights |= _own_weights(name, module)
    return weights


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
        target = merged.get_submodule(owner) if "lora_" not in name else None
        if target is not None and leaf in target._buffers:
            target._buffers[leaf] = buffer.clone()


@torch.no_grad()
def parity(peft_model: Any, merged: Any, batch: Batch) -> float:
    """Return the largest difference of any logit of a batch, at the positions before its targets."""
    worst = 0.0
    # The head is the same in both: states are subtracted before it, so its own rounding is not counted.
    states = hidden_states(peft_model, batch) - hidden_states(merged, batch)
    head = merged.get_output_embeddings().weight
    for part in torch.split(batch.before, 128):
        found = float((states[part] @ head.T).abs().max())
        worst = found if math.isnan(found) else max(worst, found)
    return worst


def check_parity(difference: float) -> float:
    """Return `difference` if it is within PARITY_LIMIT.

    Raises:
        ParityError: it is not, or it is not a number.
    """
    if not difference <= PARITY_LIMIT:
        raise ParityError(
            f"logits of the merged model differ from the trained one's by {difference:.2e}; "
            f"{PARITY_LIMIT:.0e} is allowed, so nothing is published"
        )
    return difference
