"""The four stages one after the other over a store, as pods run them; then over engines that were spoiled."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from anneal_api.outcome import GateResult
from anneal_api.runs import DeploymentRun
from anneal_runtime import artifacts
from anneal_runtime.errors import Refused
from anneal_serving import divergence, engine, gate, inspect_stage, openvino_ir, quantize, stages
from anneal_serving.checkpoint import Checkpoint
from anneal_serving.divergence import Tally

from .conftest import World


def inspected(config: DeploymentRun) -> DeploymentRun:
    return config.model_copy(update={"inspection": inspect_stage.run(config)})


def folder(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


@pytest.fixture(scope="module")
def deployed(world: World) -> tuple[DeploymentRun, GateResult]:
    """All stages run."""
    config = inspected(world.run())
    quantize.run(config)
    engine.run(config)
    return config, gate.run(config)


def test_quantized_artifact_carries_what_later_stages_read(
    deployed: tuple[DeploymentRun, GateResult],
) -> None:
    uri = stages.uri_of(deployed[0], "quantize")
    manifest = artifacts.published(uri)
    assert manifest is not None
    assert {file.path for file in manifest.files} == {
        "config.json",
        "rank0.safetensors",
        "tokenizer.json",
        "chat.json",
        "reference.safetensors",
    }
    assert manifest.metadata["calibrationTokens"] == 16 * 48
    assert all(0 < error < 0.05 for error in manifest.metadata["relativeError"].values())
    assert manifest.inputs == {"model": deployed[0].model.digest}


def test_engine_artifact_says_how_to_serve_it(deployed: tuple[DeploymentRun, GateResult]) -> None:
    manifest = artifacts.published(stages.uri_of(deployed[0], "engine"))
    assert manifest is not None
    assert {"openvino_model.xml", "openvino_model.bin", "tokenizer.json", "chat.json"} <= {
        file.path for file in manifest.files
    }
    assert manifest.metadata["runtime"] == "openvino"
    assert manifest.metadata["eosIds"] == [2]
    assert manifest.metadata["properties"] == engine.OPENVINO_PROPERTIES


def test_an_intact_engine_is_near_full_precision(deployed: tuple[DeploymentRun, GateResult]) -> None:
    result = deployed[1]
    assert 0 < result.logit_kl < 0.2
    assert abs(result.perplexity_increase) < 0.5
    assert result.tokens == 8 * 38
    assert [task.name for task in result.tasks] == ["python", "text"]


def test_a_second_inspection_finds_everything_published(
    world: World, deployed: tuple[DeploymentRun, GateResult]
) -> None:
    inspection = inspect_stage.run(world.run())
    assert set(inspection.published) == {"quantize", "engine", "gate"}
    assert inspection.gate == deployed[1]


def measure(checkpoint: Path, reference: Path) -> dict[int, Tally]:
    openvino_ir.write(Checkpoint(checkpoint), checkpoint)
    logits, _ = gate.openvino_logits(checkpoint, engine.OPENVINO_PROPERTIES)
    rows = divergence.read_rows(reference / "reference.safetensors")
    return divergence.by_task((row.task, divergence.compare(row, logits(row))) for row in rows)


def spoiled(source: Path, target: Path) -> Path:
    target.mkdir()
    for name in ("config.json", "rank0.safetensors"):
        (target / name).write_bytes((source / name).read_bytes())
    return target


def test_swapped_nibbles_are_garbage(deployed: tuple[DeploymentRun, GateResult], tmp_path: Path) -> None:
    source = folder(stages.uri_of(deployed[0], "quantize"))
    target = spoiled(source, tmp_path / "swapped")
    tensors = load_file(source / "rank0.safetensors")
    for name, value in tensors.items():
        if value.dtype == np.int8:
            unsigned = value.view(np.uint8)
            tensors[name] = (unsigned >> 4 | unsigned << 4).view(np.int8)
    save_file(tensors, target / "rank0.safetensors")
    tallies = measure(target, source)
    figures = gate.summary(tallies, ["python", "text"])
    assert figures["logitKL"] > 10 * deployed[1].logit_kl
    assert figures["perplexityIncrease"] > 1
    with pytest.raises(Refused, match="does not compute this model"):
        gate.check_language(figures, tallies)


def test_dropped_rope_scaling_shows(deployed: tuple[DeploymentRun, GateResult], tmp_path: Path) -> None:
    source = folder(stages.uri_of(deployed[0], "quantize"))
    target = spoiled(source, tmp_path / "unscaled")
    config = json.loads((target / "config.json").read_text()) | {"rotary_scaling": None}
    (target / "config.json").write_text(json.dumps(config))
    assert gate.summary(measure(target, source), ["python", "text"])["logitKL"] > 3 * deployed[1].logit_kl


def test_rounding_is_worse_than_awq(world: World, deployed: tuple[DeploymentRun, GateResult]) -> None:
    config = inspected(world.run(quantization={"method": "rtn", "groupSize": 32}))
    quantize.run(config)
    engine.run(config)
    assert gate.run(config).logit_kl > 1.3 * deployed[1].logit_kl


def test_an_engine_of_no_number_is_refused() -> None:
    tally = Tally(tokens=10, kl=float("nan"), agreed=9, reference_nll=1, engine_nll=1)
    with pytest.raises(Refused, match="does not compute this model"):
        gate.check_language(gate.summary({0: tally}, ["a"]), {0: tally})
