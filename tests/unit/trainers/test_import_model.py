"""A model in a store is a base-model artifact with a manifest; a tokenizer that splits digits keeps doing so."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from anneal_api.outcome import EXIT_CONFIG
from anneal_runtime.artifacts import open_artifact
from anneal_trainers import import_model
from anneal_trainers.__main__ import main


def test_a_folder_becomes_a_base_model_artifact(tiny: Path, tmp_path: Path) -> None:
    ref = import_model.import_model(str(tiny), f"file://{tmp_path}/models/tiny", tmp_path / "cache")
    folder, manifest = open_artifact(ref.uri, tmp_path)
    assert (manifest.kind, manifest.metadata["architecture"]) == ("base-model", "LlamaForCausalLM")
    assert (folder / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_digits_are_split_as_the_model_learned_them(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text((tiny / "tokenizer.json").read_text())
    import_model._split_digits(path)
    tokenizer = Tokenizer.from_file(str(path))
    pieces = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("a 123")]
    assert pieces[-3:] == ["1", "2", "3"]


def test_a_missing_source_is_told_and_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["import", "--source", str(tmp_path / "none.gguf"), "--to", f"file://{tmp_path}/x"])
    assert code == EXIT_CONFIG
    assert "none.gguf does not exist" in capsys.readouterr().err
