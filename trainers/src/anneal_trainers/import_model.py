"""`python3 -m anneal_trainers import --source S --to URI`: a model becomes a base-model artifact in a store.

S is a Hugging Face folder (a path, hf://, s3://, pvc://, file://) or a .gguf file. A GGUF file is
dequantised, so its weights are those of its own rounding. transformers' conversion of a GGUF tokenizer
loses the pre-tokenizer that splits digits: it is put back where the file's header asks for it.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from anneal_api.artifacts import Producer, content_key
from anneal_api.base import ArtifactRef
from anneal_api.version import VERSION
from anneal_runtime.artifacts import identity, publishing_at
from anneal_runtime.storage import local

DIGIT_SPLITTERS = ("smollm", "refact", "command-r", "starcoder", "codeshell")
"""Values of `tokenizer.ggml.pre` whose tokenizer splits every digit off before byte-level BPE."""
KEPT = (".json", ".jinja", ".safetensors", ".model", ".txt")


def main(arguments: list[str]) -> int:
    """Import what the arguments name; print the artifact's reference."""
    parser = argparse.ArgumentParser(prog="anneal_trainers import", description=__doc__)
    parser.add_argument("--source", required=True, help="Hugging Face folder or .gguf file, path or URI")
    parser.add_argument(
        "--to", required=True, help="URI of the folder to write, such as pvc://claim/models/x"
    )
    parser.add_argument("--cache", default="/tmp/anneal-import", help="where remote files are copied")
    options = parser.parse_args(arguments)
    print(import_model(options.source, options.to, Path(options.cache)).model_dump_json())
    return 0


def import_model(source: str, target: str, cache: Path) -> ArtifactRef:
    """Publish the model at `source` as a base model at `target`."""
    uri = source if "://" in source else f"file://{Path(source).resolve()}"
    digest = identity(uri, sampled=True)
    path = local(uri, cache)
    producer = Producer(kind="import", stage="import", version=VERSION)
    key = content_key({"stage": "import", "source": digest})
    with publishing_at(
        target, "base-model", key, producer=producer, inputs={"source": digest}
    ) as publication:
        if path.suffix == ".gguf":
            convert_gguf(path, publication.folder)
        else:
            _copy(path, publication.folder)
        config = json.loads((publication.folder / "config.json").read_text())
        publication.metadata = {"architecture": config["architectures"][0], "source": source}
    return publication.published


def convert_gguf(path: Path, folder: Path) -> None:
    """Write the model of a GGUF file into `folder` in Hugging Face layout, bf16."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # A fresh model: the loaded one keeps marks of its quantisation that spoil what it saves.
    model: Any = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.save_pretrained(folder)
    if _pre_tokenizer(path) in DIGIT_SPLITTERS:
        _split_digits(folder / "tokenizer.json")


def _split_digits(path: Path) -> None:
    tokenizer = json.loads(path.read_text())
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    }
    path.write_text(json.dumps(tokenizer, ensure_ascii=False))


def _pre_tokenizer(path: Path) -> str:
    import gguf

    field: Any = gguf.GGUFReader(path).get_field("tokenizer.ggml.pre")
    return str(field.contents()) if field is not None else ""


def _copy(source: Path, target: Path) -> None:
    kept = [path for path in sorted(source.iterdir()) if path.is_file() and path.suffix in KEPT]
    for path in tqdm([path for path in kept if path.name != "manifest.json"], unit=" files", disable=None):
        shutil.copyfile(path, target / path.name)
