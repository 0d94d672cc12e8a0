"""What NVIDIA's ModelOpt writes for a seeded model. Run by the interpreter of .venv-modelopt, which has ModelOpt.

`modelopt_export.py FILE` quantises the model to INT4 AWQ on the CPU and writes FILE, a safetensors file with the
tensors of its TensorRT-LLM checkpoint for one accelerator; as metadata its config, and the sha256 of every tensor of
the checkpoint for two accelerators (`rank0/NAME`, `rank1/NAME`) and of the Hugging Face export (`hf/NAME`).
tests/unit/serving/golden/modelopt.safetensors is such a file.
"""

import copy
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

GROUP = 32
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 16,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 20000.0,
    "rope_scaling": {"type": "linear", "factor": 4.0},
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


def source_weights() -> dict[str, np.ndarray]:
    """Return the model's weights: float32 numbers that float16 holds, a few input channels much louder."""
    generator = np.random.default_rng(11)
    shapes = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64)}
    shapes |= {"self_attn.o_proj": (64, 64), "mlp.gate_proj": (128, 64), "mlp.up_proj": (128, 64)}
    shapes |= {"mlp.down_proj": (64, 128)}
    weights = {f"model.layers.0.{n}.weight": generator.standard_normal(s) for n, s in shapes.items()}
    weights |= {f"{n}.weight": generator.standard_normal((16, 64)) for n in ("model.embed_tokens", "lm_head")}
    loud = np.where(np.arange(64) % 20 == 3, 10.0, 1.0)
    norms = ("model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm")
    weights |= {f"{name}.weight": loud for name in norms}
    return {name: value.astype(np.float16).astype(np.float32) for name, value in weights.items()}


def record(target: Path) -> None:
    """Write `target` as the module's docstring says."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(folder)
        digests = {
            f"{part}/{tensor}": hashlib.sha256(value.tobytes()).hexdigest()
            for part, file in (
                ("rank0", "two/rank0"),
                ("rank1", "two/rank1"),
                ("hf", "hf/model"),
            )
            for tensor, value in load_file(folder / f"{file}.safetensors").items()
        }
        settings = {part: json.loads((folder / part / "config.json").read_text()) for part in ("one", "two")}
        facts = {"config": settings, "sha256": digests}
        metadata = {key: json.dumps(value, sort_keys=True) for key, value in facts.items()}
        save_file(load_file(folder / "one/rank0.safetensors"), target, metadata=metadata)


def export(folder: Path) -> None:
    """Let ModelOpt quantise and export the model: `one`, `two` (accelerators) and `hf` in `folder`."""
    import torch
    from modelopt.torch.export import export_hf_checkpoint, export_tensorrt_llm_checkpoint

    model = quantized()
    for name, ranks in (("one", 1), ("two", 2)):
        copied = copy.deepcopy(model)
        # transformers 5 keeps these in one dictionary; ModelOpt looks for them where they used to be.
        vars(copied.config).update(rope_theta=CONFIG["rope_theta"], rope_scaling=CONFIG["rope_scaling"])
        export_tensorrt_llm_checkpoint(
            copied, "llama", torch.float16, folder / name, inference_tensor_parallel=ranks
        )
    export_hf_checkpoint(model, dtype=torch.float16, export_dir=folder / "hf")


def quantized() -> Any:
    """Return the model after ModelOpt's INT4 AWQ over random rows."""
    import modelopt.torch.quantization as mtq
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    # The export for Hugging Face refuses to convert, so the model is in float16 from the start.
    model = LlamaForCausalLM(LlamaConfig(**CONFIG)).to(torch.float16).eval()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in source_weights().items()})
    recipe = copy.deepcopy(mtq.INT4_AWQ_CFG)
    recipe["quant_cfg"]["*weight_quantizer"]["block_sizes"] = {-1: GROUP, "type": "static"}
    rows = torch.randint(0, CONFIG["vocab_size"], (8, 1, 32))
    return mtq.quantize(model, recipe, lambda m: [m(row) for row in rows])


if __name__ == "__main__":
    record(Path(sys.argv[1]))
