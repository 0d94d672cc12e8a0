"""`python3 -m anneal_trainers trial --to URI`: a tiny model and rows, with which an installation can be tried out.

The model is a seeded Llama of 0.36M weights with a ChatML tokenizer, as a Hugging Face folder `base`; the rows, `rows.jsonl`,
are a small language that it can learn in seconds. The same interpreter gives the same bytes.
"""

import argparse
import json
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from anneal_runtime.storage import join, resolve

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}
ROWS, LETTERS = 240, "abcdefgh"


def main(arguments: list[str]) -> int:
    """Write model and rows where the arguments say."""
    parser = argparse.ArgumentParser(prog="anneal_trainers trial", description=__doc__)
    parser.add_argument("--to", required=True, help="URI of a folder, such as pvc://claim/trial")
    target = parser.parse_args(arguments).to
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_tiny_model(folder / "base")
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            _put(path.read_bytes(), join(target, path.relative_to(folder).as_posix()))
    print(f"{target}: base, rows.jsonl ({ROWS} rows)", file=sys.stderr)
    return 0


def _put(content: bytes, uri: str) -> None:
    filesystem, path = resolve(uri)
    filesystem.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    filesystem.pipe_file(path, content)


def rows() -> list[dict[str, Any]]:
    """Return chats: six letters to be repeated four times."""

    def chat(number: int) -> list[dict[str, str]]:
        letters = "".join(LETTERS[n % len(LETTERS)] for n in range(number, number + 6))
        question = {"role": "user", "content": f"repeat {number} {letters}"}
        return [question, {"role": "assistant", "content": letters * 4}]

    return [{"messages": chat(number)} for number in range(ROWS)]


def write_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write config, weights, tokenizer and chat template into `folder`, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", CONFIG)
    _write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIAL[1],
            "eos_token": SPECIAL[2],
            "pad_token": SPECIAL[2],
            "unk_token": SPECIAL[0],
            "model_max_length": 512,
        },
    )
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    _tokenizer().save(str(folder / "tokenizer.json"))
    save_file(_weights(seed), str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(textwrap.__file__).read_text()], trainer)
    return tokenizer


def _weights(seed: int) -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    shapes = {"model.embed_tokens.weight": (CONFIG["vocab_size"], hidden)}
    for layer in range(CONFIG["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.self_attn.{p}_proj.weight": (hidden, hidden) for p in "qo"}
        shapes |= {f"{name}.self_attn.{p}_proj.weight": (hidden // 2, hidden) for p in "kv"}
        shapes |= {f"{name}.mlp.{p}_proj.weight": (inner, hidden) for p in ("gate", "up")}
        shapes[f"{name}.mlp.down_proj.weight"] = (hidden, inner)
    weights = {n: (generator.standard_normal(s) * 0.05).astype(np.float32) for n, s in shapes.items()}
    norms = [f"model.layers.{i}.{n}_layernorm.weight" for i in range(2) for n in ("input", "post_attention")]
    return weights | {name: np.ones(hidden, np.float32) for name in [*norms, "model.norm.weight"]}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
