"""Random models of two layers of every family that is trained, with the config.json their own repositories have."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from anneal_api.finetunejob import Adapter
from anneal_trainers.base import model
from anneal_trainers.data import batches

CPU = torch.device("cpu")
SMALL = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "hidden_act": "silu",
    "torch_dtype": "float32",
}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5}
QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "num_key_value_heads": 2,
    "rope_theta": 1_000_000.0,
}
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": LLAMA | {"rope_theta": 10_000.0},
    "llama3": LLAMA
    | {
        "num_key_value_heads": 1,
        "rope_theta": 500_000.0,
        "rope_scaling": LLAMA3_ROPE | {"original_max_position_embeddings": 32},
    },
    "deepseek-coder": LLAMA
    | {
        "num_key_value_heads": 1,
        "rope_theta": 100_000.0,
        "rope_scaling": {"type": "linear", "factor": 4.0},
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    },
    "codellama": LLAMA | {"rope_theta": 1_000_000.0, "vocab_size": 32_016, "tie_word_embeddings": False},
    "smollm2": LLAMA | {"num_key_value_heads": 2, "rope_theta": 100_000.0, "tie_word_embeddings": True},
    "qwen2": QWEN | {"tie_word_embeddings": False},
    "qwen2-tied": QWEN | {"tie_word_embeddings": True, "use_sliding_window": False},
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "num_key_value_heads": 2,
        "rope_theta": 10_000.0,
        "sliding_window": 64,
    },
}


def write_family(folder: Path, family: str, spread: float = 0.1, **changes: Any) -> Path:
    """Write a random model of a family into `folder`: biases and norms random too, as zeros and ones hide mistakes."""
    config = SMALL | FAMILIES[family] | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    loaded = transformers.AutoConfig.from_pretrained(folder)
    made: Any = transformers.AutoModelForCausalLM.from_config(loaded)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in made.named_parameters():
        parameter.data.normal_(float("norm" in name), spread, generator=generator)
    made.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def rows(lengths: tuple[int, ...] = (17, 40, 3, 25), vocabulary: int = 320) -> list[list[int]]:
    """Return seeded rows of token ids."""
    generator = np.random.default_rng(0)
    return [generator.integers(3, vocabulary, length).tolist() for length in lengths]


def pack(parts: list[list[int]]) -> batches.Batch:
    """Return rows in one sequence, every token but the first of a row a target."""
    ids = torch.tensor([token for row in parts for token in row])
    positions = torch.tensor([place for row in parts for place in range(len(row))])
    owners = np.repeat(np.arange(len(parts)), [len(row) for row in parts])
    after = torch.nonzero(positions).squeeze(-1)
    bounds = tuple(np.cumsum([0, *(len(row) for row in parts)]).tolist())
    return batches.Batch(ids[None], positions[None], bounds, after - 1, ids[after], owners[after.numpy()])


def trainee(folder: Path, kind: str = "qlora", scale: float = 0.05, **options: Any) -> model.Trainee:
    """Return a trainee with random trained values: a fresh adapter has no effect."""
    adapter = Adapter.model_validate({"type": kind, "rank": 4, "alpha": 8})
    made = model.build(folder, adapter, 0, CPU, **options)
    made.flat.add_(torch.randn(made.flat.shape, generator=torch.Generator().manual_seed(0)) * scale)
    return made


def plain(folder: Path, kind: str = "lora", **options: Any) -> Any:
    """Return the model in `folder` as transformers loads it, in float32, or in NF4 for qlora."""
    nf4 = transformers.BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=nf4 if kind == "qlora" else None, **options
    ).eval()


def logits_alone(plain_model: Any, parts: list[list[int]]) -> torch.Tensor:
    """Return the logits of every row by itself, [all tokens, vocabulary], as a user of transformers gets them."""
    with torch.no_grad():
        return torch.cat([plain_model(input_ids=torch.tensor([row])).logits[0] for row in parts])
