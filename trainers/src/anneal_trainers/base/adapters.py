"""The low-rank adapter on a base, and its files in peft's layout."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from anneal_api.finetunejob import Adapter
from anneal_runtime.errors import Refused
from anneal_trainers.base.base_model import LINEAR
from anneal_trainers.base.init_from import BASE_DIGEST, CONFIG_FILE, TENSORS_FILE
from anneal_trainers.base.libraries import peft
from anneal_trainers.base.weights import is_finite


def add(base: Any, adapter: Adapter, seed: int) -> Any:
    """Return `base` with a fresh adapter in float32, the same on every rank that passes the same seed."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]  # a float works: it is only divided
        lora_dropout=adapter.dropout,
        target_modules=list(adapter.targets or LINEAR),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft asks transformers for an attribute by its former name.
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(base, config)


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return what is trained by the names it has in files."""
    return {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def put(model: Any, folder: Path, missing: str | None = None) -> None:
    """Give the model the values of the adapter in `folder`; a tensor may lack if `missing` is in its name.

    Raises:
        Refused: names or shapes are others, or a value is no number.
    """
    saved, own = load_file(folder / TENSORS_FILE), trained(model)
    lacking = [name for name in own if name not in saved and not (missing and missing in name)]
    wrong = [name for name, value in saved.items() if name not in own or own[name].shape != value.shape]
    if lacking or wrong:
        raise Refused(
            "AdapterMismatch",
            f"spec.adapter.initFrom: {sorted(lacking + wrong)[0]} and {len(lacking + wrong) - 1} more tensors are "
            "not as this run's adapter has them; it must be of the same base, rank, targets and added tokens",
        )
    if spoiled := [name for name, value in saved.items() if not is_finite(value)]:
        raise Refused(
            "InvalidWeights",
            f"spec.adapter.initFrom: {spoiled[0]} and {len(spoiled) - 1} more tensors hold NaN or infinity; copy the "
            "adapter again or name an earlier one",
        )
    for name, value in saved.items():
        own[name].copy_(value)


def write(model: Any, folder: Path, base_digest: str) -> None:
    """Write adapter_model.safetensors and adapter_config.json, which peft reads; the base is named in the header."""
    tensors = {name: p.detach().cpu().contiguous() for name, p in trained(model).items()}
    # One key: safetensors writes several in any order, and the same adapter must be the same bytes.
    save_file(tensors, folder / TENSORS_FILE, metadata={BASE_DIGEST: base_digest})
    config = model.peft_config["default"].to_dict() | {"inference_mode": True}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1, sort_keys=True, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(getattr(value, "value", value))
