"""The four stages one after the other over a store, as pods run them; then over engines that were spoiled."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from anneal_api.artifacts import Producer
from anneal_api.modeldeployment import Engine, Gate, ModelDeploymentSpec
from anneal_api.outcome import GateResult
from anneal_api.profiles import AcceleratorProfile
from anneal_api.runs import DeploymentRun
from anneal_evaluation import records, scoring
from anneal_evaluation.in_process import GREEDY
from anneal_evaluation.judging import Here
from anneal_evaluation.suites import files
from anneal_runtime import artifacts
from anneal_runtime.errors import Refused
from anneal_serving import (
    blocks,
    builders,
    divergence,
    engine,
    gate,
    inspect_stage,
    layers,
    openvino_ir,
    openvino_layers,
    quantize,
    stages,
)
from anneal_serving.checkpoint import Checkpoint
from anneal_serving.divergence import Tally
from anneal_serving.triton import serve

from .conftest import World

PROPERTIES = engine.openvino_properties(Engine())


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
        "probe.safetensors",
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
    assert manifest.metadata["properties"] == PROPERTIES


def test_an_intact_engine_is_near_full_precision(deployed: tuple[DeploymentRun, GateResult]) -> None:
    result = deployed[1]
    assert 0 < result.logit_kl < 0.2
    assert abs(result.perplexity_increase) < 0.5
    assert result.tokens == 8 * 38
    assert [task.name for task in result.tasks] == ["python", "text"]
    # Both tasks have as many tokens.
    assert sum(task.logit_kl or 0 for task in result.tasks) / 2 == pytest.approx(result.logit_kl)


def test_full_precision_takes_the_same_road_and_passes_the_default_budget(world: World) -> None:
    config = inspected(world.run(quantization={"method": "none"}))
    assert quantize.run(config).artifact == artifacts.reference(stages.uri_of(config, "quantize"))
    engine.run(config)
    result = gate.run(config)
    assert result.logit_kl < 1e-5
    assert abs(result.perplexity_increase) < 1e-3
    assert not result.diagnosis
    manifest = artifacts.published(stages.uri_of(config, "quantize"))
    assert manifest is not None
    assert (manifest.metadata["method"], manifest.metadata["groupSize"]) == ("none", None)


def test_a_cache_of_eight_bits_is_what_the_gate_measures(world: World) -> None:
    limits = {"runtime": "openvino", "maxInputLength": 256, "maxSequenceLength": 512}
    config = inspected(world.run(quantization={"method": "none"}, engine=limits | {"kvCacheType": "int8"}))
    quantize.run(config)
    engine.run(config)
    manifest = artifacts.published(stages.uri_of(config, "engine"))
    assert manifest is not None
    assert manifest.metadata["properties"]["KV_CACHE_PRECISION"] == "u8"
    # Two layers of two heads of 32 and eight more bytes, for keys and values.
    assert manifest.metadata["kvBytesPerToken"] == 2 * 2 * 2 * (32 + 8)
    # With a float16 cache it is a fiftieth of this.
    assert 1e-4 < gate.run(config).logit_kl < 0.01


def test_a_second_inspection_finds_everything_published(
    world: World, deployed: tuple[DeploymentRun, GateResult]
) -> None:
    inspection = inspect_stage.run(world.run())
    assert set(inspection.published) == {"quantize", "engine", "gate"}
    assert inspection.gate == deployed[1]


def test_what_another_deployment_has_published_since_is_not_made_again(
    deployed: tuple[DeploymentRun, GateResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "publishing", lambda *_, **__: pytest.fail("made again"))
    for stage, module in (("quantize", quantize), ("engine", engine)):
        assert module.run(deployed[0]).artifact == artifacts.reference(stages.uri_of(deployed[0], stage))


def measure(checkpoint: Path, reference: Path) -> dict[int, Tally]:
    openvino_ir.write(Checkpoint(checkpoint), checkpoint)
    logits, _ = gate.openvino_logits(checkpoint, PROPERTIES)
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


def test_one_spoiled_projection_exceeds_the_default_budget_and_is_named(
    deployed: tuple[DeploymentRun, GateResult], tmp_path: Path
) -> None:
    source = folder(stages.uri_of(deployed[0], "quantize"))
    tensors = load_file(source / "rank0.safetensors")
    swapped = tensors["transformer.layers.1.mlp.proj.weight"].view(np.uint8)
    shifted = tensors["transformer.layers.0.mlp.fc.weights_scaling_factor"]
    spoils = {
        (1, "mlp.proj"): {
            "transformer.layers.1.mlp.proj.weight": (swapped >> 4 | swapped << 4).view(np.int8)
        },
        (0, "mlp.fc"): {"transformer.layers.0.mlp.fc.weights_scaling_factor": np.roll(shifted, 1, 0)},
    }
    for (layer, name), change in spoils.items():
        target = spoiled(source, tmp_path / f"layer{layer}")
        (target / "probe.safetensors").write_bytes((source / "probe.safetensors").read_bytes())
        save_file(tensors | change, target / "rank0.safetensors")
        figures = gate.summary(measure(target, source), ["python", "text"])
        assert gate.beyond(Gate(), figures)
        found = openvino_layers.examine(target, target, PROPERTIES)
        assert found.startswith(f"first diverging layer {layer} of 2: hidden states are ")
        assert f"its {name} does it: its weights are 1" in found


def test_either_library_runs_the_artifact_alike(deployed: tuple[DeploymentRun, GateResult]) -> None:
    checkpoint = Checkpoint(folder(stages.uri_of(deployed[0], "quantize")))
    ids = np.random.default_rng(2).integers(0, 512, 24)
    ours, theirs = blocks.states(checkpoint, ids), openvino_layers.states(checkpoint, ids)
    assert len(ours) == len(theirs) == 1 + checkpoint.decoder.layers
    for one, other in zip(ours, theirs, strict=True):
        assert layers.relative(one, other) < 1e-5


def test_an_artifact_without_its_rope_scaling_is_named(
    deployed: tuple[DeploymentRun, GateResult], tmp_path: Path
) -> None:
    source = folder(stages.uri_of(deployed[0], "quantize"))
    target = spoiled(source, tmp_path / "unscaled")
    (target / "probe.safetensors").write_bytes((source / "probe.safetensors").read_bytes())
    config = json.loads((target / "config.json").read_text()) | {"rotary_scaling": None}
    (target / "config.json").write_text(json.dumps(config))
    assert gate.beyond(Gate(), gate.summary(measure(target, source), ["python", "text"]))
    assert openvino_layers.examine(target, target, PROPERTIES) == (
        "the artifact's constants are not its model's: rope_factor is 1.0, the model's 4.0"
    )


def test_an_engine_that_computes_something_else_is_told_from_its_artifact(
    deployed: tuple[DeploymentRun, GateResult], tmp_path: Path
) -> None:
    source = folder(stages.uri_of(deployed[0], "quantize"))
    target = spoiled(source, tmp_path / "unscaled")
    config = json.loads((target / "config.json").read_text()) | {"rotary_scaling": None}
    (target / "config.json").write_text(json.dumps(config))
    figures = gate.summary(measure(target, source), ["python", "text"])
    assert gate.beyond(Gate(), figures)
    assert "the engine is at fault, not the weights" in openvino_layers.examine(source, target, PROPERTIES)


def test_a_sentence_names_the_layer_that_does_half_of_the_worst() -> None:
    errors = [0.01, 0.02, 0.5, 0.9]
    assert layers.sentence(errors, layers.diverging(errors)).startswith(
        "first diverging layer 2 of 4: hidden states are 50% off full precision after it, 2% before it"
    )
    assert layers.diverging([float("nan"), float("nan")]) == 0


def test_a_projection_that_is_not_its_models_stands_out() -> None:
    assert not layers.stands_out({"mlp.fc": 0.1, "mlp.proj": 0.2})
    assert layers.stands_out({"mlp.fc": 0.1, "mlp.proj": 1.2})
    assert layers.stands_out({"mlp.fc": float("nan"), "mlp.proj": 0.2})


def test_an_engine_beyond_its_budget_is_published_with_where_it_diverges(world: World) -> None:
    config = inspected(world.run(gate={"maxLogitKL": 1e-6}, quantization={"method": "rtn", "groupSize": 64}))
    quantize.run(config)
    engine.run(config)
    found = gate.run(config).diagnosis
    assert found.startswith("first diverging layer")
    # Rounding costs every projection something and none of them all.
    assert "none of its projections stands out (" in found


def test_another_chat_template_than_the_models_is_refused(deployed: tuple[DeploymentRun, GateResult]) -> None:
    built, weights = (
        artifacts.published(stages.uri_of(deployed[0], stage)) for stage in ("engine", "quantize")
    )
    assert built is not None
    assert weights is not None
    gate.check_words(built, weights)
    for name in ("tokenizer.json", "chat.json"):
        files = [f.model_copy(update={"sha256": "0"}) if f.path == name else f for f in built.files]
        with pytest.raises(Refused, match=f"{name} of the engine is not its model's"):
            gate.check_words(built.model_copy(update={"files": files}), weights)


def test_one_position_of_massive_activations_hides_no_layer() -> None:
    truth = np.ones((10, 8), np.float32)
    truth[0] *= 1000
    found = truth.copy()
    found[1:] *= 1.5
    assert layers.relative(found, truth) < 0.002
    assert layers.by_position(found, truth) == pytest.approx(0.45)


def test_an_engine_of_another_version_is_refused_before_it_loads(
    deployed: tuple[DeploymentRun, GateResult], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gate, "openvino_logits", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr(builders.metadata, "version", lambda _: "2020.1")
    for loads in (gate.run, lambda run: serve.write_repository(run, tmp_path)):
        with pytest.raises(
            Refused, match=r"built by openvino-202\d\.\d.* and would be loaded by openvino-2020\.1;"
        ):
            loads(deployed[0])
    assert not (tmp_path / "models").exists()


def test_an_engine_for_another_compute_capability_is_refused() -> None:
    asked = {"quantization": {"groupSize": 64}, "engine": {"runtime": "tensorrt-llm-engine"}}
    spec = ModelDeploymentSpec.model_validate({"model": {"uri": "file:///m"}, **asked})
    a10 = AcceleratorProfile(name="a10-24g", memory_gib=22, compute_capability="8.6")
    builders.check(builders.builder(spec, a10), spec, a10)
    a100 = a10.model_copy(update={"compute_capability": "8.0"})
    with pytest.raises(
        Refused, match=r"built by tensorrt-llm-1\.2\.1-sm8\.0 and would be loaded by .*-sm8\.6;"
    ):
        builders.check(builders.builder(spec, a100), spec, a10)


def test_an_engine_of_no_number_is_refused() -> None:
    tally = Tally(tokens=10, kl=float("nan"), agreed=9, reference_nll=1, engine_nll=1)
    with pytest.raises(Refused, match="does not compute this model"):
        gate.check_language(gate.summary({0: tally}, ["a"]), {0: tally})


def test_the_engine_that_will_serve_answers_the_suites_of_the_gate(world: World, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    rows = [{"context": "word number ", "line": f"{n}"} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {"gate": {"suites": [{"name": f"file://{path}"}]}}
    with pytest.raises(Refused, match="was never scored on"):
        inspect_stage.run(world.run(**spec))
    settings = GREEDY.model_copy(update={"max_tokens": 8})
    known = scoring.evaluate(
        files.read(f"file://{path}"), "full", lambda _: ["0", "1", "2"], settings, Here()
    )
    records.publish(world.store, "team", "a" * 64, known, Producer())
    config = inspected(world.run(**spec))
    quantize.run(config)
    engine.run(config)
    result = gate.run(config)
    (suite,) = result.suites
    assert (suite.reference, suite.decision) == (1.0, "undecided")
    assert suite.engine < 1.0
    assert suite.problems == 3
    assert suite.engine_low <= suite.engine <= suite.engine_high < suite.reference_high == 1.0
    assert result == inspect_stage.run(config).gate
    results = records.scores(result.artifact)
    assert results[0].value == suite.engine
