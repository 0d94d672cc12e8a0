"""Loading the frozen base: each tensor is looked at as it is read, and a linear layer is quantised as it arrives.

One sum a tensor tells whether NaN or infinity is in it: it reads what has just been read from the file, where
a pass of its own would read a large model twice. After quantisation nothing would tell: NF4 has no NaN.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open

from anneal_runtime.errors import Refused
from anneal_trainers.base import attention
from anneal_trainers.base.libraries import bitsandbytes

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def load_base(folder: Path, *, quantized: bool, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the frozen base model, its linear layers in NF4 with double quantisation when `quantized`.

    bitsandbytes repacks NF4 weights for AVX512-BF16 at the first forward pass in evaluation mode, which has
    no backward: later gradients would be wrong, so that path is switched off on every layer.

    Raises:
        Refused: a tensor is missing, or holds NaN or infinity; all of them are named.
    """
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    spoiled: list[str] = []
    model, report = getattr(transformers, config.architectures[0]).from_pretrained(
        None,
        config=config,
        state_dict=_tensors(folder, spoiled),
        dtype=dtype,
        quantization_config=_nf4(dtype) if quantized else None,
        attn_implementation=attention.IMPLEMENTATION,
        device_map={"": device},
        output_loading_info=True,
    )
    _check(spoiled, "holds NaN or infinity; download or convert the model again")
    _check(report["missing_keys"], "is missing: the folder is not whole; copy the model again")
    for layer in quantized_layers(model).values():
        layer.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False)


def quantized_layers(model: Any) -> dict[str, Any]:
    """Return the NF4 layers of a model by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, bitsandbytes.nn.modules.Linear4bit)}


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a model.

    Raises:
        Refused: there are none, or one the index names is not there.
    """
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    names: dict[str, str] = {}
    if (folder / INDEX).is_file():
        names = json.loads((folder / INDEX).read_text())["weight_map"]
    files = sorted({folder / name for name in names.values()})
    lacking = [file.name for file in files if not file.is_file()] if files else [WHOLE]
    if lacking:
        raise Refused(
            "NoWeights",
            f"spec.baseModel: {', '.join(lacking)} is not in the model's folder; weights must be safetensors",
        )
    return files


class _Tensor:
    """A tensor still in its file, which transformers reads by `[...]`; tells `spoiled` what it is not fit for."""

    def __init__(self, file: Any, name: str, spoiled: list[str]) -> None:
        self._file, self._name, self._spoiled = file, name, spoiled

    def __getitem__(self, part: Any) -> torch.Tensor:
        tensor: torch.Tensor = self._file.get_slice(self._name)[part]
        if not is_finite(tensor):
            self._spoiled.append(self._name)
        return tensor


def is_finite(tensor: torch.Tensor) -> bool:
    """Say whether all values are numbers, by one sum: NaN and infinity leave it neither."""
    return math.isfinite(float(tensor.sum(dtype=torch.float32)))


def _tensors(folder: Path, spoiled: list[str]) -> dict[str, _Tensor]:
    files = [safe_open(path, "pt") for path in weight_files(folder)]
    return {name: _Tensor(file, name, spoiled) for file in files for name in _names(file)}


def _names(file: Any) -> list[str]:
    return list(file.keys())


def _nf4(dtype: torch.dtype) -> Any:
    return transformers.BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _check(names: Any, problem: str) -> None:
    if names:
        shown = ", ".join(sorted(names)[:5])
        raise Refused("InvalidWeights", f"spec.baseModel: {shown} ({len(names)} in all) {problem}")
