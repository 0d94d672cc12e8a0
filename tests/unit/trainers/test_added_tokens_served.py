"""Tokens that a base did not have, from the rows to an endpoint's engine: every stage of both packages."""

import json
from pathlib import Path
from typing import Any

import openvino as ov
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from anneal_api.base import ArtifactRef, wire
from anneal_api.runs import DeploymentRun, FineTuneRun
from anneal_runtime.artifacts import published
from anneal_runtime.chat import ChatEncoder
from anneal_serving import engine, gate, inspect_stage, quantize
from anneal_serving.checkpoint import EMBEDDING, Checkpoint
from anneal_serving.triton import grammar, scheduler
from anneal_serving.triton.generation import Generation
from anneal_trainers import export, prepare, train

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
ADDED = {"<|fim_prefix|>": 512, "<|fim_suffix|>": 513, "<|fim_middle|>": 514}


def document(number: int) -> str:
    """Return words in a fixed order from a place that differs: what is in the gap follows from both sides."""
    return f"{number} " + " ".join(WORDS[(number + k) % len(WORDS)] for k in range(10))


def trained(run: FineTuneRun, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare the rows and train on them in one rank."""
    prepare.prepare(run)
    (folder / "run.json").write_text(json.dumps(wire(run)))
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "ANNEAL_MEET": "-"}
    for name, value in (rank | {"ANNEAL_RUN": f"{folder}/run.json"}).items():
        monkeypatch.setenv(name, value)
    assert train.main() == 0


def deployment(model: ArtifactRef, store: str) -> DeploymentRun:
    config = DeploymentRun.model_validate(
        {
            "namespace": "demo",
            "name": "served",
            "uid": "0000",
            "spec": {
                "model": {"uri": model.uri},
                "quantization": {"method": "awq", "groupSize": 32},
                "engine": {"runtime": "openvino", "maxInputLength": 64, "maxSequenceLength": 128},
            },
            "accelerator": {"name": "cpu", "memoryGib": 8},
            "model": wire(model),
            "store": store,
        }
    )
    return config.model_copy(update={"inspection": inspect_stage.run(config)})


@pytest.mark.slow
def test_added_sentinels_are_quantised_gated_and_asked_for_in_four_bits(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "code.jsonl").write_text("".join(json.dumps({"text": document(i)}) + "\n" for i in range(80)))
    fim = {"rate": 1.0, "spmRate": 0.25, "tokens": "added"}
    run = make_run(
        tasks=[{"name": "code", "data": {"uri": f"file://{tmp_path}/code.jsonl"}, "fim": fim}],
        adapter={"rank": 16, "alpha": 32},
        optimization={"learningRate": 0.01, "maxSteps": 40, "globalBatchRows": 16},
        checkpoint={"everySteps": 40},
    )
    trained(run, tmp_path, monkeypatch)
    model = export.export(run).artifact
    exported = published(model.uri)
    assert exported is not None
    before, after = (exported.metadata[name]["code"] for name in ("firstTaskLosses", "taskLosses"))
    assert after < before - 1
    assert f"| {before:.4f} | {after:.4f} |" in (folder(model) / "README.md").read_text()
    config = deployment(model, run.spec.output.uri)
    quantized = quantize.run(config).artifact
    built = engine.run(config).artifact
    # Held-out rows hold the sentinels, so what the gate measures is the answers behind them.
    rows = load_file(folder(quantized) / "reference.safetensors")["input_ids"]
    assert all((rows == number).sum() >= 4 for number in ADDED.values())
    assert 0 < gate.run(config).logit_kl < 0.2
    full = transformers.AutoModelForCausalLM.from_pretrained(folder(model), dtype=torch.float32).eval()
    learned = full.get_input_embeddings().weight.detach()[sorted(ADDED.values())]
    carried = torch.from_numpy(Checkpoint(folder(quantized)).tensor(EMBEDDING)[512:515].astype("float32"))
    assert torch.allclose(carried, learned, atol=1e-3)
    prompts = asked(folder(built))
    found = generated(built, prompts)
    with torch.no_grad():
        likeliest = [int(full(torch.tensor([ids])).logits[0, -1].argmax()) for ids in prompts]
    assert sum(ours[0] == theirs for ours, theirs in zip(found, likeliest, strict=True)) >= 12


def asked(built: Path) -> list[list[int]]:
    """Return prompts for what is missing in some documents, as the gateway encodes a raw prompt."""
    tokenizer = ChatEncoder.load(built).tokenizer
    assert {text: tokenizer.token_to_id(text) for text in ADDED} == ADDED
    gaps = [document(i).split(" theta", 1) for i in range(100, 116)]
    texts = [f"<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>" for before, after in gaps]
    prompts = [list(tokenizer.encode(text).ids) for text in texts]
    assert all([token for token in ids if token >= 512] == [512, 513, 514] for ids in prompts)
    return prompts


def folder(artifact: ArtifactRef) -> Path:
    return Path(artifact.uri.removeprefix("file://"))


def generated(built: ArtifactRef, prompts: list[list[int]]) -> list[list[int]]:
    """Return what the engine writes after each prompt, by the code of a replica."""
    manifest = published(built.uri)
    assert manifest is not None
    vocabulary, limits = scheduler.vocabulary_of(folder(built)), scheduler.Limits(slots=4, sequence=128)
    assert vocabulary == 515
    tokenizer = grammar.tokenizer_of(folder(built) / "tokenizer.json", 2, vocabulary)
    pipeline = scheduler.open_pipeline(folder(built), limits, manifest.metadata["properties"], tokenizer)
    greedy = [scheduler.generation_config(Generation(i, 6, frozenset([2]), top_k=1)) for i in prompts]
    found = pipeline.generate([ov.Tensor([ids]) for ids in prompts], greedy)
    return [list(result.m_generation_ids[0]) for result in found]
